"""`delete_before_replace` for the simulator's engine, which makes the new resource before it deletes the old one.

As Pulumi does: the resources that take the old one's id and so would be replaced with it go first, then the old one,
and all of them are made anew when the program comes to them.
"""

import copy
from typing import Any


def install(minipulumi: Any) -> None:
    """Have the engine that the simulator runs delete first where a resource asks for it."""

    class Engine(minipulumi.Engine):
        def custom(self, r: dict[str, Any], inputs: dict[str, Any], req: Any) -> Any:
            old = self.old.get(r["urn"])
            if old and req.deleteBeforeReplace and not self.dry and self.would_replace(old, copy.deepcopy(inputs), req):
                self.delete(old)
            return super().custom(r, inputs, req)

        def would_replace(self, old: dict[str, Any], inputs: dict[str, Any], req: Any) -> bool:
            inputs |= {key: old["inputs"][key] for key in req.ignoreChanges if key in old["inputs"]}
            type_ = minipulumi.tfmap.tf_type(req.type, self.p)
            block = self.p.resource(type_)
            config = minipulumi.tfmap.to_config(block, inputs)
            minipulumi.tfmap.autoname(block, config, req.name, old["urn"])
            planned, replaces, _ = self.p.plan(type_, old["tf"], config, bytes.fromhex(old["private"]))
            changed = {key for key in planned if planned[key] != old["tf"].get(key)}
            return any(path.split(".")[0] in changed - {"id"} for path in replaces)

        def delete(self, old: dict[str, Any]) -> None:
            for other in list(self.old.values()):
                if old["urn"] in other["deps"] and old["id"] in other["inputs"].values():
                    self.delete(other)
            if old["protect"]:
                raise minipulumi.ProviderError("unable to replace resource: protected")
            self.note("delete", old)
            _, _, private = self.p.plan(old["tftype"], old["tf"], None, bytes.fromhex(old["private"]))
            self.p.apply(old["tftype"], old["tf"], None, None, private)
            del self.old[old["urn"]]
            self.save()

    minipulumi.Engine = Engine
