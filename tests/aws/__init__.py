"""The AWS stack, synthesised offline and judged: `make aws-test`, in an environment of its own."""
