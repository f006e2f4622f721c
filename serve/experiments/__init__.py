"""Experiments on the endpoint: arms, assignment, outcomes, statistics."""
