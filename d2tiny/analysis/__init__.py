"""Analysis of detectors without training: coverage of objects by anchors, cost, and the table of the model zoo."""
