"""What every benchmark writes of itself."""

from __future__ import annotations

from tests.helpers import ROOT
from tests.helpers.benchmarks import value_in_benchmarks

WITH_ARGUMENTS = (
    "(setattr(common.sys, 'argv', {argv}), common.write_record(common.Path({path!r}), rows=[1]),"
    " common.json.loads(common.Path({path!r}).read_text()))[-1]"
)


def test_a_record_has_the_command_with_its_arguments(tmp_path):
    """Seven benchmarks recorded their command without options, so that nobody could run it again."""
    argv = ["/somewhere/benchmarks/nms.py", "--boxes", "100", "--note", "a b", "/home/me/run", f"{ROOT}/results/x"]
    argv += ["--work=/home/me/work", "train.output_dir=/home/me/out", "/home/me/a,/home/me/b", "model.x=[1,2]"]
    expression = WITH_ARGUMENTS.format(argv=argv, path=str(tmp_path / "record.json"))
    record = value_in_benchmarks("common", expression)
    assert (
        record["command"]
        == "python benchmarks/nms.py --boxes 100 --note 'a b' run results/x --work=work train.output_dir=out a,b"
        " 'model.x=[1,2]'"
    )
    assert record["rows"] == [1]
    assert record["hardware"]
