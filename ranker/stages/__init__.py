"""What a request passes through, by role."""
