"""Late readings, folded again as if they had come in order."""
