#!/usr/bin/env python
"""Say which kinds of errors trained models make, and what each costs (TIDE, arXiv 2008.08115).

The record has, for each model, AP50 and how much it would rise if errors of one kind were mended. Models that it has
already stay in it.

    python benchmarks/error_kinds.py /data/aerial/instances_val.json output/quick_table/aerial/rfla_seed0 \
        output/quick_table/aerial/cem_seed0 --output results/aerial/error_kinds.json
"""

from __future__ import annotations

from pathlib import Path

from common import kept_entries, make_parser, write_record

PROTOCOL = "aitod"


def main() -> None:
    """Analyse the detections of all models and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("annotations", type=Path, help="json of the validation images")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of trainings")
    parser.add_argument("--output", type=Path, required=True, help="json to write")
    args = parser.parse_args()
    from d2tiny.data.coco.arrays import load_ground_truth
    from d2tiny.evaluation import get_protocol, load_detections
    from d2tiny.evaluation.errors import analyse_errors, delta_ap

    truth = load_ground_truth(args.annotations)
    models = kept_entries(args.output, "models")
    for run in args.runs:
        found = load_detections(run / "inference" / "coco_instances_results.json", truth)
        costs = delta_ap(analyse_errors(truth, found, get_protocol(PROTOCOL)))
        models[run.name] = {name: round(value, 2) for name, value in costs.items()}
        print(run.name, models[run.name], flush=True)
    write_record(args.output, images=len(truth.image_ids), models=dict(sorted(models.items())))


if __name__ == "__main__":
    main()
