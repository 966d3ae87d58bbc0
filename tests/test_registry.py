"""The registry: names, aliases, facts, plug-ins, and what it says when something is wrong."""

import copy
import functools
import importlib
import inspect
import pickle
import sys
import threading
import warnings
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

import normzoo
from normzoo import norm_info as facts
from normzoo import plugins, registry


class Mine(nn.Module):
    """Scale each channel by a number.

    More on it.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, num_groups: int = 4) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_groups = num_groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Theirs(Mine):
    """Another."""


class Needy(nn.Module):
    def __init__(self, num_features: int, num_classes: int, eps: float = 1e-5) -> None:
        super().__init__()


def make_mine(num_features: int, eps: float = 1e-5) -> Mine:
    """A function may be registered as well."""
    return Mine(num_features, eps)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Each test writes into a copy of the registry."""
    for module, table in ((registry, "_infos"), (registry, "_names"), (plugins, "broken")):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
    monkeypatch.setattr(plugins, "_loaded", True)


@pytest.fixture
def mine():
    normzoo.register(
        "my_norm",
        aliases=("MN", "torch.nn.MyNorm2d"),
        batch_dependent=False,
        paper="Me 2026",
        reduces_over="C, *",
        state=("running_mean",),
        ranks=(3, 4),
    )(Mine)


def message(error, call, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value), "an error is one line"
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["my_norm", "MY_NORM", "my-norm", "my norm", "MyNorm", "my.norm", "mn", "MN", "nn.MyNorm2d", "mynorm2d"]
)
def test_a_norm_is_found_by_any_spelling_of_its_names(mine, name):
    assert isinstance(normzoo.create(name, 3), Mine)
    assert normzoo.info(name).name == "my_norm"


def test_create_passes_the_keywords_on(mine):
    layer = normzoo.create("my_norm", 8, num_groups=2)
    assert (layer.num_features, layer.num_groups) == (8, 2)


def test_a_factory_is_a_partial_that_survives_pickle_and_deepcopy(mine):
    factory = normzoo.factory("my_norm", num_groups=2)
    assert isinstance(factory, functools.partial)
    for each in (factory, pickle.loads(pickle.dumps(factory)), copy.deepcopy(factory)):
        layer = each(8)
        assert type(layer) is Mine
        assert (layer.num_features, layer.num_groups) == (8, 2)
    assert functools.partial(factory, num_groups=1)(8).num_groups == 1


def test_a_function_can_be_registered():
    assert normzoo.register("made", batch_dependent=False)(make_mine) is make_mine
    assert isinstance(normzoo.factory("made")(3), Mine)
    assert normzoo.info("made").arguments == {"eps": 1e-5}


def test_the_facts_are_as_registered(mine):
    info = normzoo.info("MN")
    assert info.build is Mine
    assert info.owner == __name__
    assert info.summary == "Scale each channel by a number."
    assert info.arguments == {"eps": 1e-5, "num_groups": 4}
    assert (info.paper, info.reduces_over, info.state, info.ranks) == ("Me 2026", "C, *", ("running_mean",), (3, 4))
    assert (info.kind, info.minimum_count, info.fused, info.includes_activation) == ("layer", 1, False, False)
    with pytest.raises(AttributeError):
        info.name = "other"


def test_an_unknown_name_lists_the_nearest(mine):
    said = message(normzoo.UnknownNormError, normzoo.create, "my_nrm", 3)
    assert "unknown norm 'my_nrm'; did you mean my_norm" in said
    assert "my_norm" in message(normzoo.UnknownNormError, normzoo.factory, "mynorm3d")  # near an alias
    stranger = message(normzoo.UnknownNormError, normzoo.info, "qqqqqqqqqqqqqq")
    assert stranger.startswith("unknown norm 'qqqqqqqqqqqqqq'; normzoo.list_norms() lists all ")
    assert "group_norm" not in stranger, "a list of all norms helps nobody"
    for base in (normzoo.UserError, LookupError):
        assert issubclass(normzoo.UnknownNormError, base)


@pytest.mark.parametrize("name", [None, 3, nn.BatchNorm2d])
def test_a_name_that_is_no_string_is_refused(name):
    assert "must be a string" in message(normzoo.UnknownNormError, normzoo.create, name, 3)


def test_an_unknown_keyword_is_refused_early_with_the_nearest_and_all_accepted(mine):
    for call in (lambda: normzoo.factory("my_norm", num_group=2), lambda: normzoo.create("my_norm", 8, num_group=2)):
        said = message(TypeError, call)
        assert said == (
            "my_norm: unknown keyword 'num_group' (did you mean 'num_groups'?); accepted: eps=1e-05, num_groups=4"
        )
    assert issubclass(normzoo.UnknownArgumentError, normzoo.UserError)  # so the command line prints it on one line


def test_a_missing_keyword_is_refused_early():
    normzoo.register("needy", batch_dependent=False)(Needy)
    assert normzoo.info("needy").arguments["num_classes"] is inspect.Parameter.empty
    assert message(TypeError, normzoo.factory, "needy") == "needy needs num_classes; accepted: num_classes, eps=1e-05"
    assert isinstance(normzoo.factory("needy", num_classes=3)(8), Needy)


@pytest.mark.parametrize(
    ("name", "aliases", "what"),
    [
        ("my_norm", (), "name 'mynorm'"),
        ("other", ("M_N",), "alias 'mn'"),
        ("other", ("My-Norm",), "alias 'mynorm'"),
        ("mn", (), "name 'mn'"),
    ],
)
def test_a_taken_name_or_alias_is_refused_and_both_owners_named(mine, name, aliases, what):
    Theirs.__module__ = "their_package"
    try:
        said = message(ValueError, normzoo.register(name, aliases=aliases, batch_dependent=True), Theirs)
    finally:
        Theirs.__module__ = __name__
    assert said.startswith(
        f"{what} of the norm {name!r} from their_package is already taken by 'my_norm' from {__name__}"
    )
    assert normzoo.info("my_norm").build is Mine
    assert normzoo.info("mn").name == "my_norm"
    assert name == "my_norm" or "other" not in normzoo.list_norms()


def test_defining_a_norm_again_replaces_it(tmp_path, monkeypatch):
    """As importlib.reload and a notebook cell run twice do."""
    code = """
import normzoo
from torch import nn

@normzoo.register("reloaded", aliases=({aliases}), batch_dependent=False)
class Reloaded(nn.Identity):
    def __init__(self, num_features, {keyword}=1):
        super().__init__()
"""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "reloaded_norm.py"
    file.write_text(code.format(aliases="'r_a', 'r_b'", keyword="old"))
    module = importlib.import_module("reloaded_norm")
    try:
        first = module.Reloaded
        importlib.reload(module)
        assert normzoo.info("reloaded").build is module.Reloaded is not first
        file.write_text(code.format(aliases="'r_b', 'r_c'", keyword="newer"))
        importlib.invalidate_caches()
        importlib.reload(module)
        assert "newer" in normzoo.info("r_c").arguments
        with pytest.raises(normzoo.UnknownNormError):
            normzoo.info("r_a")
    finally:
        del sys.modules["reloaded_norm"]


@pytest.mark.parametrize("name", ["MyNorm", "my-norm", "", "2norm", "my__norm", "_norm"])
def test_a_name_that_could_not_be_a_file_name_is_refused(name):
    assert "snake case" in message(ValueError, normzoo.register, name, batch_dependent=False)


def test_what_the_registry_could_not_check_or_call_is_refused():
    def swallows(num_features, **kwargs):
        return nn.Identity()

    def bare():
        return nn.Identity()

    def keyword_only(*, num_features):
        return nn.Identity()

    def reserved(num_features, inplace=False):
        return nn.Identity()

    decorate = normzoo.register("odd", batch_dependent=False)
    assert "**kwargs would swallow" in message(TypeError, decorate, swallows)
    for function in (bare, keyword_only):
        assert "first parameter" in message(TypeError, decorate, function)
    assert "'inplace' is reserved" in message(TypeError, decorate, reserved)
    assert "sequences" in message(TypeError, normzoo.register, "odd", aliases="odd2", batch_dependent=False)
    assert "choose one of layer, " in message(ValueError, normzoo.register, "odd", kind="layers", batch_dependent=False)
    with pytest.raises(TypeError, match="batch_dependent"):
        normzoo.register("odd")
    assert "odd" not in normzoo.list_norms()


def test_includes_activation_is_written_on_the_class_only_where_it_differs():
    class Active(Mine):
        pass

    class Plain(Active):
        pass

    normzoo.register("active", batch_dependent=False, includes_activation=True)(Active)
    normzoo.register("plain", batch_dependent=False)(Plain)
    normzoo.register("foreign", batch_dependent=False)(Theirs)
    assert Active.includes_activation is True
    assert Plain.includes_activation is False
    assert not hasattr(Theirs, "includes_activation")


def test_list_norms_filters_on_any_fact(mine):
    for fact in facts.FACTS:
        assert "my_norm" in normzoo.list_norms(**{fact: getattr(normzoo.info("my_norm"), fact)})
    assert "my_norm" not in normzoo.list_norms(batch_dependent=True)
    assert "my_norm" in normzoo.list_norms(ranks=4, state="running_mean", aliases="MN", batch_dependent=False)
    assert "my_norm" not in normzoo.list_norms(ranks=5)
    assert "my_norm" in normzoo.list_norms(state=True)
    assert "my_norm" not in normzoo.list_norms(state=False)
    assert normzoo.list_norms() == sorted(normzoo.list_norms())


def test_an_unknown_fact_is_refused_and_the_facts_listed():
    said = message(TypeError, normzoo.list_norms, batch_dependant=True)
    assert "unknown fact 'batch_dependant' (did you mean 'batch_dependent'?); facts: " in said
    assert all(fact in said for fact in facts.FACTS)


def test_norm_layers_names_the_outermost_norms_of_a_model_once(mine):
    class Nested(Mine):
        def __init__(self, num_features: int) -> None:
            super().__init__(num_features)
            self.inner = Mine(num_features)

    nested, shared = Nested(2), Mine(4)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), shared, nn.Sequential(nested, shared), nn.ReLU())
    assert list(normzoo.norm_layers(model)) == [("1", shared), ("2.0", nested)]
    assert list(normzoo.norm_layers(shared)) == [("", shared)]


class FakeEntryPoint(EntryPoint):
    """An entry point whose loading is a function of the test."""

    def load(self):
        return LOADS[self.name]()

    @property
    def dist(self):
        return type("Distribution", (), {"name": f"{self.name}-dist"})()


LOADS = {}


@pytest.fixture
def install(monkeypatch):
    """Make these the installed plug-ins, not loaded yet."""

    def these(**loads):
        LOADS.clear()
        LOADS.update(loads)
        points = [FakeEntryPoint(name=name, value=f"{name}:it", group="normzoo.norms") for name in loads]
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda *, group: points if group == "normzoo.norms" else ()
        )
        monkeypatch.setattr(plugins, "_loaded", False)

    return these


def register_mine():
    return normzoo.register("my_norm", batch_dependent=False)(Mine)


def register_theirs():
    return normzoo.register("their_norm", batch_dependent=False)(Theirs)


def fail():
    raise RuntimeError("no such file")


def test_plugins_load_on_the_first_name_that_is_not_there(install):
    install(one=register_mine)
    assert "my_norm" not in registry._infos
    normzoo.register("here", batch_dependent=False)(Theirs)
    normzoo.create("here", 3)
    assert "my_norm" not in registry._infos, "a name that is there needs no plug-ins"
    assert isinstance(normzoo.create("my_norm", 3), Mine)
    assert normzoo.info("my_norm").owner == f"one-dist ({__name__})"


@pytest.mark.parametrize("call", [normzoo.list_norms, lambda: normzoo.info("my_norm")])
def test_plugins_load_on_the_first_list_or_info(install, call):
    install(one=register_mine)
    call()
    assert "my_norm" in registry._infos


def exit_loudly():
    sys.exit(3)


@pytest.mark.parametrize("broken", [fail, exit_loudly], ids=["raises", "exits"])
def test_a_broken_plugin_is_reported_once_by_name_and_the_others_load(install, broken):
    install(one=register_mine, bad=broken, two=register_theirs)
    with pytest.warns(
        UserWarning, match=r"plug-in 'bad' from bad-dist did not load .*(RuntimeError: no such|SystemExit)"
    ):
        names = normzoo.list_norms()
    assert {"my_norm", "their_norm"} <= set(names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normzoo.list_norms()
        said = message(normzoo.UnknownNormError, normzoo.create, "bad_norm", 3)
    assert "The plug-in 'bad' from bad-dist did not load" in said


def test_a_warning_turned_into_an_error_keeps_no_plugin_out(install):
    install(bad=fail, two=register_theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="bad"):
            normzoo.list_norms()
    assert "their_norm" in normzoo.list_norms()


def test_a_plugin_that_takes_a_taken_name_is_broken_and_the_owner_keeps_it(install):
    normzoo.register("my_norm", batch_dependent=True)(Theirs)
    install(bad=register_mine)
    with pytest.warns(UserWarning, match=f"'bad' .* from bad-dist .*already taken by 'my_norm' from {__name__}"):
        normzoo.list_norms()
    assert normzoo.info("my_norm").build is Theirs


def test_of_two_plugins_that_want_a_name_the_first_by_its_distribution_gets_it(install):
    install(zeta=lambda: normzoo.register("wanted", batch_dependent=False)(Theirs), alpha=wanted_by_alpha)
    taken = rf"'zeta' .* from zeta-dist \({__name__}\) is already taken by 'wanted' from alpha-dist"
    with pytest.warns(UserWarning, match=taken):
        assert "wanted" in normzoo.list_norms()
    assert normzoo.info("wanted").build is Mine


def wanted_by_alpha():
    return normzoo.register("wanted", batch_dependent=False)(Mine)


def test_a_plugin_that_registers_nothing_says_so(install):
    install(bad=lambda: Mine)
    with pytest.warns(UserWarning, match="'bad' .* bad:it is not registered; decorate it with @normzoo.register"):
        normzoo.list_norms()


def test_what_half_a_plugin_registered_goes_with_its_module(install, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_a_plugin.py").write_text(
        "import normzoo\nfrom torch import nn\n"
        "@normzoo.register('half', batch_dependent=False)\nclass Half(nn.Identity):\n"
        "    def __init__(self, num_features): super().__init__()\n"
        "import does_not_exist_anywhere\n"
    )
    install(bad=lambda: importlib.import_module("half_a_plugin"))
    with pytest.warns(UserWarning, match="'bad' .*does_not_exist_anywhere"):
        assert "half" not in normzoo.list_norms()


def test_a_plugin_may_use_the_registry_while_it_loads(install):
    install(one=lambda: (normzoo.list_norms(), register_mine())[1])
    assert "my_norm" in normzoo.list_norms()


def test_threads_that_come_together_load_the_plugins_once(install):
    loaded = []
    gate = threading.Barrier(8)
    install(one=lambda: (loaded.append(1), register_mine())[1])

    def ask():
        gate.wait()
        assert isinstance(normzoo.create("my_norm", 3), Mine)
        done.append(1)

    done = []
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(loaded), len(done)) == (1, 8)
