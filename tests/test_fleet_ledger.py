"""The POS's own books: what was entered stays entered through a kill, and adds up exactly."""

import signal
import subprocess
import sys
from hashlib import blake2b

import pytest

from fleet.ledger import Entry, Ledger, LedgerError, add_up, add_up_folder, enter, read

SALE = Entry("a", "sale", 1250, "00")
RETURN = Entry("b", "return", 250, "01")

ENDLESS = """
import sys
from pathlib import Path
from fleet.ledger import Entry, Ledger
ledger = Ledger(Path(sys.argv[1]), "till-1")
for number in range(10**9):
    ledger.append(Entry(str(number), "sale", number, "00"))
    print(number, flush=True)
"""


def test_entries_come_back_in_order(tmp_path):
    """What is appended is read back as it was, by a ledger made anew, and by till from the folder."""
    for entry in (SALE, RETURN, SALE):
        Ledger(tmp_path, "till-1", fsync=False).append(entry)
    Ledger(tmp_path, "till-2").append(RETURN)
    assert list(Ledger(tmp_path, "till-1").entries()) == [SALE, RETURN, SALE]
    assert add_up_folder(tmp_path) == {
        "till-1": {"sale": (2, 2500), "return": (1, 250)},
        "till-2": {"return": (1, 250)},
    }


def test_no_file_is_an_empty_ledger(tmp_path):
    """A till that closed nothing has no documents and no money."""
    assert add_up(Ledger(tmp_path, "till-1").entries()) == {}


def test_a_torn_last_line_was_never_closed(tmp_path):
    """A reader leaves a torn line out while the till is down; the till cuts it off and goes on."""
    ledger = Ledger(tmp_path, "till-1")
    ledger.append(SALE)
    with ledger.path.open("ab") as file:
        file.write(b'{"document_id":"b","transac')
    assert list(read(ledger.path)) == [SALE]
    Ledger(tmp_path, "till-1").append(RETURN)
    assert list(read(ledger.path)) == [SALE, RETURN]


def test_a_whole_line_that_is_no_entry_is_an_error(tmp_path):
    """Damage in the middle is never passed over: the proof would be of something else."""
    ledger = Ledger(tmp_path, "till-1")
    ledger.append(SALE)
    with ledger.path.open("ab") as file:
        file.write(b"?\n")
    with pytest.raises(LedgerError, match=r"till-1\.ledger\.jsonl:2:"):
        list(ledger.entries())


def test_entries_outlive_a_kill(tmp_path):
    """Every entry that a killed POS had made is there, in order, at most one more, and the next follows it."""
    with subprocess.Popen([sys.executable, "-c", ENDLESS, tmp_path], stdout=subprocess.PIPE, text=True) as pos:
        for _ in range(200):
            pos.stdout.readline()
        pos.send_signal(signal.SIGKILL)
        told = 200 + len(pos.stdout.readlines())
    entered = [entry.document_id for entry in read(tmp_path / "till-1.ledger.jsonl")]
    assert entered == [str(number) for number in range(len(entered))]
    assert told <= len(entered) <= told + 1


@pytest.mark.parametrize(
    ("blocks", "amount_minor"),
    [({"totals": {"total_minor": 7}}, 7), ({"cash": {"amount_minor": 9}}, 9), ({"shift": {}}, 0), ({}, 0)],
)
def test_money_is_the_total_or_the_cash(blocks, amount_minor):
    """An entry holds a receipt's total or a cash movement's amount, else 0, and the print of the exact bytes."""
    entry = enter({"document_id": "a", "transaction_type": "x", **blocks}, b"body")
    assert entry == Entry("a", "x", amount_minor, blake2b(b"body", digest_size=16).hexdigest())
