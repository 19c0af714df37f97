"""What works by test and has not run where it is meant to run; each says what is missing."""
