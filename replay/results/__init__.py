"""What a run leaves behind: tables, points, digests, and where it came from."""
