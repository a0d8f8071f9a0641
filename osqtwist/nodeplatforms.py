"""
Where osquery's packages keep things, for each platform that has them.

From osquery's installation manual and its packaging sources, of osquery 5.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class NodePlatform:
    """
    One platform.

    :ivar packages: what osquery's packages for it are.
    :ivar folder: where its files go, with the separator at its end.
    :ivar reader: what reads the flagfile there.
    :ivar guard: the commands after which nobody but the service reads the secret files, ``{folder}`` and ``{secret}``
        filled in.
    :ivar start: what to do for the first start.
    :ivar restart: what to do after a change.
    :ivar complaints: where osqueryd says what is wrong.
    """

    packages: str
    folder: str
    reader: str
    guard: str
    start: str
    restart: str
    complaints: str

    @property
    def flagfile(self) -> str:
        """Where the flagfile goes."""
        return f"{self.folder}osquery.flags"


PLATFORMS = {
    "linux": NodePlatform(
        packages="the deb and rpm packages",
        folder="/etc/osquery/",
        reader="the unit osqueryd (FLAG_FILE in /etc/default/osqueryd, or /etc/sysconfig/osqueryd with rpm)",
        guard="chown root: {secret} && chmod 600 {secret}",
        start="systemctl enable --now osqueryd",
        restart="systemctl restart osqueryd",
        complaints="journalctl -u osqueryd",
    ),
    "darwin": NodePlatform(
        packages="the pkg package",
        folder="/private/var/osquery/",
        reader="the launch daemon io.osquery.agent",
        guard="chown root:wheel {secret} && chmod 600 {secret}",
        start="cp /private/var/osquery/io.osquery.agent.plist /Library/LaunchDaemons/"
        " && launchctl bootstrap system /Library/LaunchDaemons/io.osquery.agent.plist",
        restart="launchctl kickstart -k system/io.osquery.agent",
        complaints="/private/var/log/osquery",
    ),
    "windows": NodePlatform(
        packages="the msi package",
        folder="C:\\Program Files\\osquery\\",
        reader="the service osqueryd",
        # By number, since the names of groups are in the language of the system.
        guard='icacls "{secret}" /inheritance:r /grant *S-1-5-18:R *S-1-5-32-544:F',
        start="Start-Service osqueryd",
        restart="Restart-Service osqueryd",
        complaints="C:\\Program Files\\osquery\\log",
    ),
}
