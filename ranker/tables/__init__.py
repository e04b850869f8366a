"""What the ranker holds of Redis: live columns of items and authors, rows of users."""
