"""A simulated plant to try the product against: it may know nothing of the product but the names in `schemas`."""
