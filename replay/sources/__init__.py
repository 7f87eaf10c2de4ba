"""Where raw records come from: topics, archives, both as one log."""
