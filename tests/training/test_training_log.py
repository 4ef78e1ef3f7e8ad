import pytest
from test_checkpoint_store import disk_of

from m2f.training.optimization_step import StepResult
from m2f.training.training_log import CsvLog, LossMeter, read_rows


def test_rows_are_on_the_disk_at_once_to_the_last_digit(tmp_path):
    log = CsvLog(tmp_path / "log.csv", 0)
    log.append({"step": 1, "loss": 1 / 3})
    assert (tmp_path / "log.csv").read_text() == "step,loss\n1,0.3333333333333333\n"
    log.append({"step": 2})
    assert read_rows(tmp_path / "log.csv")[1] == {"step": "2", "loss": ""}


def test_a_run_that_goes_on_writes_later_rows_again(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,5\n2,4\n3,3\n")
    log = CsvLog(path, 2)
    log.append({"step": 3, "loss": 2})
    assert path.read_text() == "step,loss\n1,5\n2,4\n3,2\n"


def test_a_run_that_begins_leaves_nothing_of_a_former_one(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,other\n1,5\n")
    CsvLog(path, 0).append({"step": 1, "loss": 2})
    assert path.read_text() == "step,loss\n1,2\n"


@pytest.mark.parametrize("rest", ["3,", "3,0.2", "3", '"3'])
def test_half_a_row_of_a_killed_process_is_cut(tmp_path, rest):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,5\n2,4\n" + rest)
    assert [row["step"] for row in read_rows(path)] == ["1", "2"]
    CsvLog(path, 9).append({"step": 3, "loss": 1})
    assert path.read_text() == "step,loss\n1,5\n2,4\n3,1\n"


def test_a_column_that_is_not_there_is_an_error(tmp_path):
    log = CsvLog(tmp_path / "log.csv", 0)
    log.append({"step": 1})
    with pytest.raises(ValueError, match=r"no columns \['loss'\]"):
        log.append({"step": 2, "loss": 1})


def test_a_full_disk_keeps_the_rows(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "1,5\n" * 100)
    with pytest.raises(OSError), disk_of(200):
        CsvLog(path, 9)
    assert len(read_rows(path)) == 100


def result(loss: float, **fields) -> StepResult:
    return StepResult(loss, {"loss_ce": loss / 2}, 4 * loss, **fields)


def test_the_meter_gives_means_and_begins_anew():
    meter = LossMeter()
    for loss in (1.0, 2.0, 6.0):
        meter.add(result(loss))
    assert meter.take() == {"loss": 3.0, "gradient_norm": 12.0, "loss_ce": 1.5}
    assert meter.take() == {}


def test_skipped_steps_are_in_no_mean():
    meter = LossMeter()
    meter.add(result(1.0))
    meter.add(StepResult(skipped_because="not finite"))
    meter.add(result(float("inf"), skipped_because="not finite"))
    assert meter.take()["loss"] == 1.0


def test_the_meter_goes_on_between_two_rows():
    whole, first = LossMeter(), LossMeter()
    for loss in (0.1, 0.2):
        whole.add(result(loss))
        first.add(result(loss))
    second = LossMeter(first.state_dict())
    whole.add(result(0.7))
    second.add(result(0.7))
    assert second.take() == whole.take()
