"""Where `headrace train` takes its rows from: events replayed, or the serving log."""
