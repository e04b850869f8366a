"""Factors: what users and items add to the odds of an answer, learnt from the stream each night."""
