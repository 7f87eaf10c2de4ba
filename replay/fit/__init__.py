"""Noise and reactor parameters that readings tell, with their intervals."""
