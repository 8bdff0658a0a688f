"""A real agent runs real commands: outcomes, surroundings, output."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

from fleetlog_runtime.pure.signing import Signer
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.reports import ReportEnded, ReportFacts, Stream
from fleetlog_schemas.spec import Script, Shell
from fleetlog_testing.agent_process import fleet, marked, sh
from fleetlog_testing.waiting import until


def test_commands_end_as_they_exit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            good = await dispatcher.start(agent, Shell(argv=("true",)))
            bad = await dispatcher.start(agent, sh("echo broken >&2; exit 3"))
            accepted = await dispatcher.start(agent, sh("exit 3"), exit_codes=(0, 3))
            killed = await dispatcher.start(agent, sh("kill -9 $$"))
            absent = await dispatcher.start(agent, Shell(argv=("no-such-program",)))
            ends = [await dispatcher.end_of(task) for task in (good, bad, accepted, killed, absent)]
            assert [end.outcome for end in ends] == ["success", "failure", "success", "failure", "error"]
            assert [end.exit_code for end in ends] == [0, 3, 3, None, None]
            assert ends[0].token == f"token {good} 1"
            assert (ends[1].tail, ends[3].signal) == ("broken\n", 9)
            assert (ends[0].tail, ends[0].output) == ("", None)
            assert ends[4].ran is Ran.NO
            assert "'no-such-program' was not found" in ends[4].error
            assert ends[0].duration_ms is not None
            assert ends[0].duration_ms < 2_000
            assert (await dispatcher.items(ReportFacts))[0].facts["cpu.count"] >= 1

    asyncio.run(scenario())


def test_surroundings_are_as_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            env = dispatcher.blob(json.dumps({"COLOUR": "blue"}).encode())
            told = await dispatcher.start(
                agent, sh('echo "$COLOUR $(pwd) $(umask) $(ulimit -n) $(cat)"'), env=env, env_names=("COLOUR",),
                stdin=dispatcher.blob(b"from stdin"), cwd="/usr", umask=0o027, files_max=123,
            )
            limited = await dispatcher.start(agent, sh("echo $(ulimit -v)"), memory_bytes_max=512 * 1024 * 1024)
            nowhere = await dispatcher.start(agent, Shell(argv=("true",)), cwd="/no/such/folder")
            nobody = await dispatcher.start(agent, Shell(argv=("true",)), user="no-such-user")
            assert (await dispatcher.end_of(told)).tail == "blue /usr 0027 123 from stdin\n"
            assert (await dispatcher.end_of(limited)).tail == f"{512 * 1024}\n"
            assert "working directory '/no/such/folder' does not exist" in (await dispatcher.end_of(nowhere)).error
            end = await dispatcher.end_of(nobody)
            assert (end.outcome, end.ran) == (Outcome.ERROR, Ran.NO)
            assert "no user 'no-such-user'" in end.error

    asyncio.run(scenario())


def test_parameters_of_a_definition_are_variables_of_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            env = dispatcher.blob(json.dumps({"FLEETLOG_PARAM_TOKEN": "hunter2"}).encode())
            told = await dispatcher.start(
                agent, sh('printf "%s|" "$FLEETLOG_PARAM_PATH" "$FLEETLOG_PARAM_ALL" "$FLEETLOG_PARAM_ONLY" "${#FLEETLOG_PARAM_TOKEN}"'),
                parameters={"path": "; id", "all": True, "only": ("a", "b")}, env=env, env_names=("FLEETLOG_PARAM_TOKEN",),
            )
            assert (await dispatcher.end_of(told)).tail == "; id|true|a\nb|7|"

    asyncio.run(scenario())


def test_a_command_returns_what_it_leaves_in_a_file_also_as_another_user(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            leave = sh("""echo '{"who": "'$(id -un)'"}' > $FLEETLOG_RETURN""")
            mine, theirs = await dispatcher.start(agent, leave), await dispatcher.start(agent, leave, user="nobody")
            wrong = await dispatcher.start(agent, sh("echo oops > $FLEETLOG_RETURN"))
            assert (await dispatcher.end_of(mine)).return_value == '{"who": "root"}'
            assert (await dispatcher.end_of(theirs)).return_value == '{"who": "nobody"}'
            end = await dispatcher.end_of(wrong)
            assert (end.outcome, end.return_value) == (Outcome.SUCCESS, None)
            assert "no JSON" in end.error

    asyncio.run(scenario())


def test_a_script_runs_by_its_digest_also_as_another_user(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            content = dispatcher.blob(b'echo "$(id -un) got $1"\n', "deploy.sh")
            mine = await dispatcher.start(agent, Script(content=content, args=("this",)))
            theirs = await dispatcher.start(agent, Script(content=content, args=("that",)), user="nobody")
            assert (await dispatcher.end_of(mine)).tail == "root got this\n"
            assert (await dispatcher.end_of(theirs)).tail == "nobody got that\n"
            missing = Script(content=dispatcher.blob(b"echo gone"))
            dispatcher.blobs.clear()
            end = await dispatcher.end_of(await dispatcher.start(agent, missing))
            assert (end.outcome, end.ran) == (Outcome.ERROR, Ran.NO)

    asyncio.run(scenario())


def test_output_arrives_in_order_with_lines_an_end_mark_and_its_hash(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            task = await dispatcher.start(agent, sh("seq 1 40000; echo last >&2"))
            end = await dispatcher.end_of(task)
            frames = await dispatcher.frames(agent, task)
            out = b"".join(frame.data for frame in frames if frame.stream is Stream.STDOUT)
            assert out == b"".join(b"%d\n" % number for number in range(1, 40_001))
            assert [frame.last for frame in frames] == [False] * (len(frames) - 1) + [True]
            lines = 1
            for frame in frames:
                assert frame.line == lines
                lines += frame.data.count(b"\n")
            assert end.output is not None
            assert (end.output.bytes, end.output.lines, end.output.frames) == (len(out) + 5, 40_001, len(frames))
            assert end.output.sha256 == hashlib.sha256(b"".join(frame.data for frame in frames)).hexdigest()
            assert [mark.line for mark in end.output.index] == [frame.line for frame in frames]
            assert end.tail.endswith("40000\nlast\n")

    asyncio.run(scenario())


def test_output_beyond_its_quota_loses_its_middle_and_says_how_much(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            task = await dispatcher.start(agent, sh("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"), output_bytes_max=100_000)
            end = await dispatcher.end_of(task)
            frames = await dispatcher.frames(agent, task)
            assert end.output is not None
            assert end.output.bytes == 3_000_005
            assert end.output.bytes - end.output.dropped_bytes == sum(len(frame.data) for frame in frames) == 100_000
            assert sum(frame.gap_bytes for frame in frames) == end.output.dropped_bytes
            assert frames[-1].data.endswith(b"x\nend\n")

    asyncio.run(scenario())


def test_secrets_never_leave_the_host(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            env = dispatcher.blob(json.dumps({"PASSWORD": "correct horse", "PLACE": "stable"}).encode())
            task = await dispatcher.start(
                agent, sh('printf "$PASSWORD"; sleep 0.4; printf "correct"; sleep 0.6; echo " horse in $PLACE"; printf "$PASSWORD" | base64'),
                env=env, env_names=("PASSWORD", "PLACE"), secret_names=("PASSWORD",),
            )
            end = await dispatcher.end_of(task)
            out = b"".join(frame.data for frame in await dispatcher.frames(agent, task)).decode()
            assert out == "*" * 26 + " in stable\n" + "*" * 20 + "\n"
            assert end.tail == out

    asyncio.run(scenario())


def test_a_command_past_its_timeout_dies_with_its_whole_tree(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            # Ignores the first signal, leaves its session, and hides behind an orphan.
            task = await dispatcher.start(
                agent, sh("trap '' TERM; setsid sleep 600 & (setsid sh -c 'sleep 601 & sleep 602' &) ; sleep 603; sleep 604"),
                timeout_ms=800,
            )
            await until(lambda: len(marked(agent.host_id, task)) >= 4)
            end = await dispatcher.end_of(task)
            assert (end.outcome, end.ran, end.signal) == (Outcome.TIMEOUT, Ran.YES, 9)
            await until(lambda: not marked(agent.host_id, task))

    asyncio.run(scenario())


def test_a_cancelled_command_is_confirmed_and_nothing_of_it_lives(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            task = await dispatcher.start(agent, sh("sleep 600 & sleep 601 & wait"))
            await dispatcher.started(task)
            await dispatcher.cancel(agent, task)
            assert (await dispatcher.end_of(task)).outcome == Outcome.CANCELLED
            assert marked(agent.host_id, task) == []

    asyncio.run(scenario())


def test_a_forged_push_runs_nothing_and_raises_an_alarm(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            witness = tmp_path / "forged"
            await dispatcher.start(agent, sh(f"touch {witness}"), signer=Signer(bytes(32)))
            honest = await dispatcher.start(agent, Shell(argv=("true",)))
            await dispatcher.end_of(honest)
            assert not witness.exists()
            assert "not trusted here" in agent.diagnostics()

    asyncio.run(scenario())


def test_the_hosts_policy_is_obeyed(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "host0").mkdir()
        (tmp_path / "host0" / "policy.toml").write_text('[forbid]\nprograms = ["reboot"]\n[allow]\nusers = ["root"]\n')
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            one = await dispatcher.start(agent, Shell(argv=("/sbin/reboot",)))
            two = await dispatcher.start(agent, Shell(argv=("true",)), user="nobody")
            assert "forbids program '/sbin/reboot'" in (await dispatcher.end_of(one)).error
            assert "does not allow user 'nobody'" in (await dispatcher.end_of(two)).error

    asyncio.run(scenario())


def test_stopping_a_command_leaves_the_same_attempt_of_another_host_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path, agents=2) as (dispatcher, (one, other)):
            task = await dispatcher.start(one, sh("sleep 60"))
            await dispatcher.start(other, sh(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"), task_id=task)
            await until(lambda: marked(one.host_id, task) and marked(other.host_id, task), what="both run")
            await dispatcher.cancel(one, task)
            assert (await dispatcher.end_of(task)).outcome == Outcome.CANCELLED
            # Two hosts on one machine see each other's processes: this one is not the one that was stopped.
            (tmp_path / "go").touch()
            await until(lambda: not marked(other.host_id, task), what="the other ends by itself")

            async def both() -> bool:
                return len(await dispatcher.items(ReportEnded, task)) == 2

            await until(both, what="both ends")
            assert {end.outcome for end in await dispatcher.items(ReportEnded, task)} == {Outcome.CANCELLED, Outcome.SUCCESS}

    asyncio.run(scenario())
