"""COCO json: one reader, one rule for boxes, one writer, and the views of training and of evaluation.

``boxes`` has the rule for boxes, ``document`` what the json may hold, ``reader`` reads a file once for both views:
``records`` (Detectron2's dicts for training) and ``arrays`` (ground truth for evaluation). ``check`` lists the problems
of a file as ``findings``, ``writer`` writes files, ``source`` finds them. Only ``records`` imports Detectron2.
"""
