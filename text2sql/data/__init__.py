"""What there is to learn from: Spider, the embedded data set, a database of one's own."""
