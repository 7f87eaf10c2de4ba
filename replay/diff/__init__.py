"""What other settings changed, reading by reading."""
