"""Is it the same, to the byte? What differs first, and what was the state before it?"""
