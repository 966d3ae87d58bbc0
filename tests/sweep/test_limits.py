"""What the kernel says of processes it ended."""

from pathlib import Path

import pytest

from normzoo.sweep.supervisor import count_oom_kills


@pytest.mark.parametrize(
    ("group", "file", "count"),
    [
        ("0::/jobs/7\n", "sys/fs/cgroup/jobs/7/memory.events", 3),
        ("5:cpu:/\n4:memory:/box\n0::/\n", "sys/fs/cgroup/memory/box/memory.oom_control", 2),
        ("0::/\n", "proc/vmstat", 1),
        ("0::/\n", "nowhere", 0),
    ],
)
def test_where_the_kernel_counts_what_it_ended_for_want_of_memory(
    tmp_path: Path, group: str, file: str, count: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(f"low 0\noom 9\noom_kill {count}\noom_group_kill 8\n")
    assert count_oom_kills(tmp_path) == count
