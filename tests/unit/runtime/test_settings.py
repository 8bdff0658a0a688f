"""Where settings come from, which source wins, and what a wrong one says."""

from __future__ import annotations

import pytest

from fleetlog_runtime.pure.settings import GROUPS, Settings, SettingsError, describe, resolve

FILE = "[dispatcher]\nslots_per_host = 5\nresend_ms = 100\n"


def test_nothing_given_is_the_defaults():
    assert resolve() == Settings()


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default():
    environment = {"FLEETLOG_DISPATCHER_SLOTS_PER_HOST": "6", "FLEETLOG_DISPATCHER_RESEND_MS": "200"}
    found = resolve(
        flags=["dispatcher.slots_per_host=7"], environment=environment, file_text=FILE + "offline_ms = 70000\n"
    ).dispatcher
    assert (found.slots_per_host, found.resend_ms, found.offline_ms, found.suspect_ms) == (7, 200, 70_000, 20_000)


def test_numbers_with_a_fraction_and_texts_are_read_from_flags():
    found = resolve(flags=["dispatcher.mass_silence_ratio=0.5", "runtime.log_level=debug", "gateway.port=0"])
    assert (found.dispatcher.mass_silence_ratio, found.runtime.log_level, found.gateway.port) == (0.5, "debug", 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"flags": ["dispatcher.slots=1"]}, ["--set dispatcher.slots=1", "no setting dispatcher.slots", "slots_per_host"]),
        ({"flags": ["dispatch.slots=1"]}, ["no group 'dispatch'", "dispatcher"]),
        ({"flags": ["slots"]}, ["--set GROUP.NAME=VALUE"]),
        ({"flags": ["dispatcher.slots_per_host=many"]}, ["slots_per_host cannot be 'many'", "default 4"]),
        ({"flags": ["dispatcher.slots_per_host=0"]}, ["cannot be '0'", ">= 1"]),
        ({"flags": ["dispatcher.slots_per_host=1.5"]}, ["cannot be '1.5'"]),
        ({"flags": ["runtime.log_level=loud"]}, ["debug, info, warning or error"]),
        ({"environment": {"FLEETLOG_AGENT_HEART": "1"}}, ["the environment variable FLEETLOG_AGENT_HEART"]),
        ({"environment": {"FLEETLOG_AGENT_GAP_MS": "-1"}}, ["FLEETLOG_AGENT_GAP_MS", "cannot be '-1'"]),
        ({"file_text": "[dispatcher]\nslots_per_host = '5'", "file_name": "s.toml"}, ["s.toml, [dispatcher]", "'5'"]),
        ({"file_text": "[nothing]\na=1", "file_name": "s.toml"}, ["s.toml", "no group 'nothing'"]),
        ({"file_text": "dispatcher = 3", "file_name": "s.toml"}, ["must be a table"]),
        ({"file_text": "[[[", "file_name": "s.toml"}, ["s.toml: not TOML"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_what_fits(given, says):
    with pytest.raises(SettingsError) as error:
        resolve(**given)
    for part in says:
        assert part in str(error.value)


def test_other_variables_of_ours_are_not_settings():
    assert resolve(environment={"FLEETLOG_URL": "x", "FLEETLOG_TOKEN": "y", "FLEETLOG_DATA": "z"}) == Settings()


def test_every_setting_is_described_with_its_reason_and_default():
    rows = describe()
    assert {row.key.split(".")[0] for row in rows} == set(GROUPS)
    assert all(len(row.why) > 15 for row in rows)
    slots = next(row for row in rows if row.key == "dispatcher.slots_per_host")
    assert (slots.environment, slots.kind, slots.default) == ("FLEETLOG_DISPATCHER_SLOTS_PER_HOST", "int", "4")


def test_every_described_setting_can_be_set_from_the_environment_to_its_default():
    assert resolve(environment={row.environment: row.default for row in describe()}) == Settings()
