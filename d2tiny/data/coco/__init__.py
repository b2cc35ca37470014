"""COCO json: one reader, one rule for boxes, and the views of training and of evaluation."""
