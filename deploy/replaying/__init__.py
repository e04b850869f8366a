"""What `headrace replay` composes: state, vectors and rankings held against those that served."""
