"""What stands in for something in a test: servers without a model, training without DeepSpeed."""
