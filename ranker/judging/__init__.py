"""Judging: what another model, other weights or other rules would have done on recorded traffic."""
