"""Pictures of any size: read by rows, segmented by overlapping windows, written by rows."""
