"""Questions to the time series store: latest value, a range, windows, the twin's state."""
