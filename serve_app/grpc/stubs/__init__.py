"""Made by `make proto` from proto/inference.proto."""
