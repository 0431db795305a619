"""What is released: the model card, versions, publishing."""
