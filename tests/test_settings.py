"""osqtwist.settings: where settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from osqtwist.settings import HELP, BadSetting, Settings, default_of, gather


def test_options_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    """The nearer to the operator's fingers, the stronger."""
    file = tmp_path / "osqtwist.toml"
    file.write_text('hold = 1\nstate = "a"\nclient-auth = "none"\n')
    settings = gather({"hold": "3"}, {"OSQTWIST_STATE": "b", "OSQTWIST_HOLD": "2"}, str(file))
    assert (settings.hold, settings.state, settings.client_auth, settings.workers) == (3.0, "b", "none", 1)


def test_the_environment_names_the_settings_file(tmp_path: Path) -> None:
    """OSQTWIST_SETTINGS stands for --settings."""
    file = tmp_path / "osqtwist.toml"
    file.write_text("hold = 4\n")
    assert gather({}, {"OSQTWIST_SETTINGS": str(file)}).hold == 4.0


def test_several_ports(tmp_path: Path) -> None:
    """A port may be given more than once, on the command line, in the file and in the environment."""
    file = tmp_path / "osqtwist.toml"
    file.write_text('port = ["ssl:1", "ssl:2"]\n')
    assert gather({}, {}, str(file)).port == ("ssl:1", "ssl:2")
    assert gather({}, {"OSQTWIST_PORT": "ssl:3 ssl:4"}).port == ("ssl:3", "ssl:4")
    assert gather({"port": ["ssl:5"]}, {"OSQTWIST_PORT": "ssl:3"}, str(file)).port == ("ssl:5",)


def test_tables_of_the_settings_file(tmp_path: Path) -> None:
    """Identity rules and deadlines are tables."""
    file = tmp_path / "osqtwist.toml"
    file.write_text(
        '[[identity]]\nsource = "san.uri"\npattern = "spiffe://example.org/(.+)"\n[deadlines]\nhandshake = 3\n'
    )
    settings = gather({}, {}, str(file))
    assert settings.identity[0].source == "san.uri"
    assert settings.deadlines.handshake == 3.0


@pytest.mark.parametrize(
    ("options", "environment", "text", "words"),
    [
        ({"hold": "13"}, {}, "", ["--hold", "13", "from 0 to 12"]),
        ({"hold": "x"}, {}, "", ["--hold", "'x'", "a number"]),
        ({}, {"OSQTWIST_HOLD": "x"}, "", ["OSQTWIST_HOLD", "a number"]),
        ({}, {"OSQTWIST_HOLT": "1"}, "", ["OSQTWIST_HOLT", "not a setting"]),
        ({}, {}, "holt = 1", ["holt in", "osqtwist.toml", "not a setting"]),
        ({}, {}, "hold = [", ["osqtwist.toml", "not TOML"]),
        ({}, {}, "state = 3", ["state in", "must be text"]),
        ({}, {}, "[deadlines]\nhandshake = 0", ["deadlines.handshake", "more than 0"]),
        ({}, {}, "[deadlines]\nhandshak = 1", ["deadlines in", "handshak"]),
        ({}, {}, "[limits]\nheld_reads_per_node = -1", ["limits.held_reads_per_node", "negative"]),
        ({"client_auth": "maybe"}, {}, "", ["--client-auth", "'maybe'", "required, optional, none"]),
        ({"request_log": "maybe"}, {}, "", ["--request-log", "yes or no"]),
        ({"workers": "1.5"}, {}, "", ["--workers", "a whole number"]),
        ({"admin": "tcp:1"}, {}, "", ["--admin", "unix:PATH"]),
        ({"admin": "unix:/x:mode=888"}, {}, "", ["--admin", "unix:PATH:mode=660"]),
        ({"admin_cert": "a"}, {}, "", ["--admin-cert is given", "--admin-key is not"]),
        ({"admin_crl": "a"}, {}, "", ["--admin-crl is given", "--admin-ca is not"]),
        ({}, {}, '[operators.users]\nalice = "boss"', ["operators in", "boss"]),
        ({}, {}, '[[operators.certificates]]\nvalue = "x"\nrole = "admin"\nsource = "y"', ["operators", "'y'"]),
        ({}, {}, '[sink.alerts]\nkind = "stdout"\n[alert.x]\nwhen = "*"', ["[sink.alerts]", "another"]),
        ({"route_prefix": ["/a", "x"]}, {}, "", ["--route-prefix"]),
        ({"log_budget_mib": "-1"}, {}, "", ["--log-budget-mib", "at least 0"]),
        ({"cert": "a"}, {}, "", ["--cert is given", "--key is not"]),
        ({"cert": "a", "key": "b"}, {}, "", ["--client-ca is not"]),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, options: dict[str, str], environment: dict[str, str], text: str, words: list[str]
) -> None:
    """One sentence names the option, the variable, or the key and file, and what it must be."""
    file = tmp_path / "osqtwist.toml"
    file.write_text(text)
    with pytest.raises(BadSetting) as caught:
        gather(options, environment, str(file))
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_a_settings_file_that_is_missing_is_named() -> None:
    """The error names the file."""
    with pytest.raises(BadSetting, match=r"--settings /nowhere\.toml: No such file"):
        gather({}, {}, "/nowhere.toml")


def test_every_option_is_explained() -> None:
    """Each setting is an option with a help text, or a table of the settings file."""
    tables = {
        "identity",
        "certificate_tags",
        "deadlines",
        "limits",
        "trusted_proxy",
        "live",
        "sink",
        "operators",
        "easing",
        "alert",
        "events",
    }
    assert set(HELP) | tables == set(Settings.__struct_fields__)
    assert default_of("hold") == "10.0"
    assert default_of("request_log") == "yes"


def test_no_client_ca_is_needed_where_nobody_is_asked_for_a_certificate() -> None:
    """With --client-auth none, certificate and key suffice."""
    assert not gather({"cert": "a", "key": "b", "client_auth": "none"}, {}).makes_development_set_up
    assert gather({}, {}).makes_development_set_up
