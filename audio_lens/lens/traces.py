"""Raw nnsight traces on the named sites, for the lens to inherit."""

from typing import Any

from nnsight.intervention.interleaver import Mediator
from nnsight.modeling.huggingface import HuggingFaceModel
from torch import Tensor

from audio_lens.errors import AudioLensError, HookError, InputError, SiteError
from audio_lens.lens.engine import Engine, trace_location
from audio_lens.lens.rows import Prompts
from audio_lens.lens.run import Branch, check_branch
from audio_lens.lens.sites import Site, SiteTable


class Traces(HuggingFaceModel):
    """nnsight's model, with `site` and `set_site` inside its traces."""

    sites: SiteTable
    _engine: Engine
    _persistent_id: str

    def trace(self, prompts: Prompts = None, codes: Tensor | None = None, **options: Any) -> Any:
        """A raw nnsight trace over a forward, or with `fn=lens.generate` over a generation.

        Inside, `site` and `set_site` reach the named sites, in order of execution.
        """
        if options.get("fn") is None:
            options["fn"] = self  # and not its method, which would travel with all it calls
            return super().trace(prompts, codes, **options)
        if options.get("remote"):
            raise InputError(
                "a remote trace runs a forward: decoding does not travel. Give codes instead of "
                "fn=, or generate here."
            )
        return super().trace(prompts, **options)

    def _remote_backend(self, remote: bool | str, *options: Any) -> Any:
        """Where every remote trace and session begins: refuse what would be lost on the way."""
        if self._engine.active:
            raise AudioLensError(
                "hooks do not travel: a remote trace would run without those that are active. "
                "Leave the `with` block first, and write inside the trace with set_site()."
            )
        return super()._remote_backend(remote, *options)

    def site(self, name: str, *, branch: Branch = "cond") -> Tensor:
        """Inside a trace: the tensor at a site. Edits in place count."""
        return Mediator.value(self._parking(name, branch)[1])

    def set_site(self, name: str, value: Tensor, *, branch: Branch = "cond") -> None:
        """Inside a trace: put a tensor in place of the one at a site."""
        site, location = self._parking(name, branch)
        if site.write == "no":
            raise HookError(f"{site.name} is read-only.")
        Mediator.swap(location, value)

    def _parking(self, name: str, branch: str) -> tuple[Site, str]:
        sites = self.sites.resolve(name)
        if len(sites) > 1:
            raise SiteError(f"{name!r} is a site of every layer: say {sites[0].name!r} or another.")
        if not self._engine.mediators:
            raise SiteError(
                f"there is no run to find {name!r} in: outside of a trace there are hooks and "
                f"caches; site() and set_site() belong inside `with lens.trace(prompts, codes):`."
            )
        if branch == "uncond" and (run := self._engine.run) and branch not in run.branches:
            raise SiteError(
                "this trace has no unconditional half: give a guidance_scale above 1 and a prompt."
            )
        if branch == "both":
            raise SiteError('a trace reads one branch at a time: "cond" or "uncond".')
        check_branch(branch, sites)
        return sites[0], trace_location(sites[0], branch)

    def _remoteable_persistent_objects(self) -> dict[str, Any]:
        """What a remote trace refers to and does not carry: above all the lens itself, so that
        the server's own lens, with its engine and its sites, stands in for this one.
        """
        return super()._remoteable_persistent_objects() | {self._persistent_id: self}
