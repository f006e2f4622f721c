"""What an experiment's figures are worth: error rates under peeking, and power, by simulation."""
