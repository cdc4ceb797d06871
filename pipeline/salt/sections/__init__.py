"""Pictures of any size: read row by row, segmented in overlapping windows, written row by row."""
