"""What becomes of a host for how the kernels' probes came out there."""

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
    """Holds hosts to what the jury says.

    Args:
        works: of the run's kernels.
        jury: is told what they drew.
        patience: seconds for a probe.
    """

    def __init__(self, works: Sequence[Work], jury: Jury, patience: float) -> None:
        self.works, self.jury, self._patience = works, jury, patience

    def owes(self, host: Host) -> bool:
        """Whether it has not drawn the probe of every kernel yet."""
        return any(number not in host.probes for number in range(len(self.works)))

    def on_outcome(self, host: Host, outcome: Outcome) -> None:
        """A further probe was drawn there; where its worker died, it may be asked for anew."""
        number = -outcome.task
        if is_lost(outcome, host.lost_probes):
            host.lost_probes += 1
            self._ask(host, number, anew=True)
        else:
            host.drew(number, probed(outcome))

    def judge(self, host: Host, complete: bool) -> None:
        """Accept or refuse a host that has shaken hands, once its probes can be judged.

        The further kernels of a sweep are asked for once the first one was drawn.

        Args:
            host: it.
            complete: no probe of another one is waited for.
        """
        if host.probes and not host.asked:
            host.asked = True
            for number in range(1, len(self.works)):
                self._ask(host, number)
        drawn = {n: host.probes[n] for n in range(len(self.works)) if n in host.probes}
        for number, probe in drawn.items():
            if not host.is_own:
                # All that is on one host has one vote.
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
        """Refuse a host for a probe; where it came out differently, once it was drawn twice."""
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
            same = host.probes.get(again, probe) == probe
            host.refuse(*difference(name, verdict, same, host.here))

    def _ask(self, host: Host, number: int, *, anew: bool = False) -> None:
        """Have a kernel probed there; from the number of kernels on, each of them a second time."""
        host.ask(number, self.works[number % len(self.works)], anew=anew)

    def _name(self, number: int) -> str:
        return f" {self.works[number].source.name}" if len(self.works) > 1 else ""
