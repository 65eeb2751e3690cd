"""Accepts or refuses hosts by the results of the kernels' probes there."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.hosts.connect.host import Host
from cluster.hosts.connect.jury import Fit, Jury, Verdict, difference
from cluster.hosts.fingerprint import is_lost, missing_module, probed
from cluster.sampling.task import Outcome, Work

_SLOW = (
    "see whether the kernel waits for something there (a child process, a lock, a file); or give it"
    " a smaller block, for a probe is one block of up to 4,096 samples"
)


class Judge:
    """Applies the jury's verdicts to hosts.

    Args:
        works: one for each kernel of the run.
        jury: collects the results, and decides on the reference.
        patience: seconds for a probe.
    """

    def __init__(self, works: Sequence[Work], jury: Jury, patience: float) -> None:
        self.works, self.jury, self._patience = works, jury, patience

    def owes(self, host: Host) -> bool:
        """Whether a host has yet to draw the probe of some kernel."""
        return any(number not in host.probes for number in range(len(self.works)))

    def on_outcome(self, host: Host, outcome: Outcome) -> None:
        """Record the outcome of a further probe; if its worker died, the probe may be repeated."""
        number = -outcome.task
        if is_lost(outcome, host.lost_probes):
            host.lost_probes += 1
            self._ask(host, number, anew=True)
        else:
            host.drew(number, probed(outcome))

    def judge(self, host: Host, complete: bool) -> None:
        """Accept or refuse a host that has completed its handshake, if its probes allow that now.

        The probes of a sweep's further kernels are requested once that of the first is drawn.

        Args:
            host: the host.
            complete: no probe of any other host is awaited.
        """
        if host.probes and not host.asked:
            host.asked = True
            for number in range(1, len(self.works)):
                self._ask(host, number)
        drawn = {n: host.probes[n] for n in range(len(self.works)) if n in host.probes}
        for number, probe in drawn.items():
            if not host.is_own:
                # By the host's own name, so that the ranks of a host have one vote together.
                self.jury.hear(host.node.host, number, probe)
        lacking = ((n, missing_module(probe)) for n, probe in drawn.items())
        number, module = next(((n, each) for n, each in lacking if each), (0, None))
        if module:
            words = f"the kernel{self._name(number)} needs the module {module}"
            host.refuse(f"{words}, which is missing there", host.installing(module))
        elif len(drawn) < len(self.works):
            if host.overdue:
                words = f"the kernel's probe did not come back within {self._patience:g} s"
                host.refuse(words, _SLOW)
        else:
            self._weigh(host, drawn, complete)

    def _weigh(self, host: Host, drawn: dict[int, str], complete: bool) -> None:
        verdicts = {n: self.jury.verdict(n, probe, complete) for n, probe in drawn.items()}
        bad = [n for n, each in verdicts.items() if each.fit not in (Fit.FITS, Fit.WAITS)]
        if bad:
            self._turn_away(host, bad[0], verdicts[bad[0]])
        elif all(each.fit is Fit.FITS for each in verdicts.values()):
            for number, probe in drawn.items():
                if not self.jury.is_known(number):
                    self.jury.confirm(number, probe)
                    host.remark = host.remark or self.jury.remark(number)
            host.accept()

    def _turn_away(self, host: Host, number: int, verdict: Verdict) -> None:
        """Refuse a host for a probe.

        If the result differs, only after a second draw, which tells a kernel that is not
        deterministic from a host that is different.
        """
        name, probe = self._name(number), host.probes[number]
        if verdict.fit is Fit.FAILS:
            words = f"the kernel{name} {probe}; {verdict.where} it did not"
            host.refuse(words, "see that it can be imported and run there, or leave the host out")
            return
        again = number + len(self.works)
        if host.twice != again:
            host.twice = again
            self._ask(host, again)
        if again in host.probes or host.overdue:
            # Without a second result in time, the machine is blamed, not the kernel.
            same = host.probes.get(again, probe) == probe
            host.refuse(*difference(name, verdict, same, host.here))

    def _ask(self, host: Host, number: int, *, anew: bool = False) -> None:
        """Request a probe; numbers from the number of kernels on are second draws."""
        host.ask(number, self.works[number % len(self.works)], anew=anew)

    def _name(self, number: int) -> str:
        return f" {self.works[number].source.name}" if len(self.works) > 1 else ""
