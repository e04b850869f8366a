"""What a feature is: events, the declaration vocabulary, the plan, state and as-of reads."""
