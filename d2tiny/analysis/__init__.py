"""What can be said about a detector without training it: coverage of its anchors, cost, the zoo's table."""
