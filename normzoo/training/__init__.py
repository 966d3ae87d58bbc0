"""One cell: its parsed configuration, its checks, its training and its record."""
