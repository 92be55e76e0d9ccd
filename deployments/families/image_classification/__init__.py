"""The ImageClassification family."""
