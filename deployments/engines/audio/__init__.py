"""Models that write down what is said: texts of sound files."""
