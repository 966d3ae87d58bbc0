"""The atlas: complete over the registry, self-contained, and with the numbers of the layers."""

import html
import json
import re
import shutil
import subprocess
import tomllib
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import normzoo
from normzoo import atlas, cli, registry
from normzoo.atlas import equation
from normzoo.atlas.scores import read_scores
from normzoo.errors import UserError
from normzoo.results import CellResult, write_result

NORMS = [normzoo.info(name) for name in normzoo.list_norms()]
OURS = [norm for norm in NORMS if norm.owner.startswith("normzoo.")]
NOTES = tomllib.loads((atlas.HERE / "notes.toml").read_text("utf-8"))
SCORES = json.loads((atlas.HERE / "scores.json").read_text("utf-8"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=4000",
]


@pytest.fixture(scope="module")
def page():
    return atlas.page(NORMS)


def test_every_norm_has_a_card_with_its_arguments_and_paper(page):
    cards = re.findall(r'<article class="card" id="(\w+)".*?</article>', page, re.DOTALL)
    assert cards == normzoo.list_norms()
    for norm in NORMS:
        card = re.search(rf'<article class="card" id="{norm.name}".*?</article>', page, re.DOTALL)[0]
        assert all(f"<code>{argument}</code>" in card for argument in norm.arguments)
        for number in re.findall(r"arXiv:([\d.]+\d)", norm.paper):
            assert f'href="https://arxiv.org/abs/{number}"' in card


def test_every_norm_here_has_notes_and_grew_out_of_an_older_one():
    assert sorted(NOTES) == sorted(norm.name for norm in OURS)
    years = {norm.name: max(map(int, re.findall(r"\b(?:19|20)\d\d\b", norm.paper)), default=0) for norm in NORMS}
    for name, note in NOTES.items():
        assert sorted(note) == ["avoid", "parent", "use"]
        assert all(20 < len(note[key]) < 170 for key in ("use", "avoid")), name
        assert not note["parent"] or 0 < years[note["parent"]] <= years[name]


@pytest.mark.parametrize("norm", OURS, ids=lambda norm: norm.name)
def test_the_equation_of_every_norm_is_valid_mathml(norm):
    shown = equation.mathml(equation.of(norm.build.__doc__.replace("\n    ", "\n")))
    root = ElementTree.fromstring(f"<body>{shown}</body>")
    assert root.find(".//math") is not None
    children = {"mfrac": 2, "msup": 2, "msub": 2, "msubsup": 3, "mover": 2}
    assert all(len(node) == children.get(node.tag, len(node)) for node in root.iter())


def test_fractions_roots_powers_and_indices_are_found():
    shown = equation.mathml("y = (x_i − mean) / sqrt(var + eps)")
    assert "<mfrac><mrow><msub><mi>x</mi><mi>i</mi></msub><mo>−</mo><mi>μ</mi></mrow><msqrt>" in shown
    assert "<msup><mi>σ</mi><mn>2</mn></msup><mo>+</mo><mi>ε</mi>" in shown
    assert "<msup><mi>k</mi><mi>β</mi></msup>" in equation.mathml("y = k^beta")
    assert equation.mathml("mean over a & b") == "<div><span>μ over a &amp; b</span></div>"


def test_the_page_asks_no_host_for_anything(page):
    assert not re.search(r"""(?:src|srcset|action)=|url\(|@import|fetch\(|XMLHttpRequest|<link""", page)
    assert "default-src 'none'" in page
    assert set(re.findall(r'https?://[^/"]+', page)) == {"https://arxiv.org", "http://www.w3.org"}
    assert len(page) < 1_000_000


def test_a_plug_in_is_shown_without_notes_and_what_it_says_is_escaped(monkeypatch):
    for table in ("_infos", "_names"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))

    @normzoo.register(
        "hostile", batch_dependent=False, reduces_over="C", paper="</script><script>alert(1)</script> 2026"
    )
    class Hostile(nn.Module):
        """A <b>norm</b> & '"> more.

        y = <img src=x onerror=alert(1)>

            y = <img src=x onerror=alert(1)>
        """

        def __init__(self, num_features: int, mode: str = "'><script>") -> None:
            super().__init__()

    shown = atlas.page([*NORMS, normzoo.info("hostile")])
    assert 'id="hostile"' in shown
    assert not re.search(r"<img|<b>norm|alert\(1\)</script>|'><script>", shown)
    card = re.search(r'id="hostile".*?</article>', shown, re.DOTALL)[0]
    assert "Use it when" not in card
    assert "6 of 120 values" in card


def test_show_html_writes_one_card(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["show", "GN", "--html"])
    assert capsys.readouterr().out == "group_norm.html\n"
    shown = (tmp_path / "group_norm.html").read_text(encoding="utf-8")
    assert re.findall(r'<article class="card" id="(\w+)"', shown) == ["group_norm"]
    assert 'id="see"' not in shown


def test_the_command_writes_the_page_and_the_scores_of_a_sweep(tmp_path, capsys):
    for seed, error in enumerate((10.0, 20.0)):
        config = {
            "norm": {"name": "batch_norm"}, "batch_size_per_device": 2, "seed": seed, "model": {"name": "mlp"},
            "data": {"name": "digits"}, "trainer": {"max_epochs": 1}, "placement": {"name": "pre_act"},
        }  # fmt: skip
        result = CellResult(
            cell=f"{seed:012x}",
            status="ok",
            seed=seed,
            config=config,
            metrics={"val_error_running": error},
            values_per_statistic={"a": 4, "b": 2},
        )
        write_result(tmp_path / "sweep" / result.cell, result)
    out, scores = tmp_path / "atlas.html", tmp_path / "scores.json"
    cli.main(["atlas", "--out", str(out), "--sweep", str(tmp_path / "sweep"), "--save-scores", str(scores)])
    assert capsys.readouterr().out == f"{scores}\n{out}\n"
    (row,) = json.loads(scores.read_text("utf-8"))["rows"]
    assert row == {
        "norm": "batch_norm", "batch": 2, "status": "ok", "error": 15.0, "std": 7.07, "seeds": 2, "fewest": 2,
    }  # fmt: skip
    assert "15.0 ± 7.1 %" in out.read_text(encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no cell in .* has a validation error"):
        read_scores(tmp_path / "empty")


def test_the_scores_that_ship_are_of_every_norm_and_batch_of_the_default_sweep():
    grid = {(row["norm"], row["batch"]) for row in SCORES["rows"]}
    norms = ("identity", "batch_norm", "group_norm", "layer_norm", "instance_norm", "ghost_batch_norm")
    assert grid == {(norm, batch) for norm in norms for batch in (2, 4, 8, 16, 32, 64)}
    assert {row["seeds"] for row in SCORES["rows"]} == {3}


NODE = """
const { NORMS, activations, normalize, updated } = require(process.argv[1]);
const out = [];
for (const [samples, positions, perGroup] of [[2, 1, 4], [2, 4, 1], [8, 16, 2]]) {
  const shape = { samples, channels: 8, positions, perGroup };
  let running = { mean: new Float64Array(8), variance: new Float64Array(8).fill(1) };
  for (let seed = 1; seed < 4; seed++) {
    const x = activations(seed, shape), found = {};
    for (const kind of Object.keys(NORMS))
      found[kind] = normalize(kind, x, shape, { gamma: 1.5, beta: kind === "RMS" ? 0 : 0.5 });
    running = updated(running, found.BN);
    found.eval = normalize("BN", x, shape, { running });
    out.push({ shape, x: [...x], running: [[...running.mean], [...running.variance]],
      y: Object.fromEntries(Object.entries(found).map(
        ([kind, { y, refused, count }]) => [kind, { y: [...y], refused, count }])) });
  }
}
console.log(JSON.stringify(out));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js to run the page's arithmetic")
def test_the_numbers_of_the_experiment_are_those_of_the_layers():
    script = str(atlas.HERE / "atlas.js")
    done = subprocess.run(["node", "-e", NODE, script], capture_output=True, text=True, check=True, timeout=60)
    batch_norm = None
    for batch in json.loads(done.stdout):
        samples, positions, per_group = (batch["shape"][key] for key in ("samples", "positions", "perGroup"))
        x = torch.tensor(batch["x"], dtype=torch.float64).view(samples, 8, positions, 1)
        layers = {
            "BN": normzoo.create("batch_norm", 8),
            "LN": normzoo.create("layer_norm", 8),
            "IN": normzoo.create("instance_norm", 8),
            "GN": normzoo.create("group_norm", 8, channels_per_group=per_group),
            "RMS": normzoo.create("rms_norm", 8, eps=2**-23),
        }
        for kind, layer in layers.items():
            nn.init.constant_(layer.double().weight, 1.5)
            if kind != "RMS":
                nn.init.constant_(layer.bias, 0.5)
            found = batch["y"][kind]
            if found["refused"]:
                with pytest.raises(ValueError, match="single value"):
                    layer(x)
            else:
                torch.testing.assert_close(
                    torch.tensor(found["y"], dtype=torch.float64), layer(x).flatten(), rtol=1e-9, atol=1e-9
                )
            if hasattr(layer, "values_per_statistic"):
                assert found["count"] == layer.values_per_statistic(x.shape)
        if batch_norm is None or batch_norm[0] != batch["shape"]:
            batch_norm = batch["shape"], normzoo.create("batch_norm", 8).double()
        layer = batch_norm[1]
        layer(x)
        running = torch.tensor(batch["running"], dtype=torch.float64)
        torch.testing.assert_close(running, torch.stack([layer.running_mean, layer.running_var]), rtol=1e-9, atol=1e-9)
        evaluated = layer.eval()(x).flatten()
        layer.train()
        torch.testing.assert_close(
            torch.tensor(batch["y"]["eval"]["y"], dtype=torch.float64), evaluated, rtol=1e-9, atol=1e-9
        )


ACT = """
const said = {}, input = node => node.dispatchEvent(new Event("input", { bubbles: true }));
const visible = () => [...document.querySelectorAll(".card")].filter(card => !card.hidden).map(card => card.id);
const cell = (norm, column) => document.querySelector(`#numbers [data-norm=${norm}]`).cells[column].textContent;
const filters = document.getElementById("filters"), controls = document.getElementById("controls");
const search = text => { filters.elements.search.value = text; input(filters.elements.search); return visible(); };
said.aliases = ALIASES.filter(([alias, name]) => search(alias)[0] !== name);
said.torch = search("nn.BatchNorm2d");
search("");
const filter = document.querySelector("#facts select[name=batch-dependent]");
filter.value = "yes"; input(filter);
said.batchDependent = visible();
filter.value = ""; input(filter);
const shape = { samples: 2, channels: 8, positions: 1, perGroup: 4 };
said.xHat = cell("BN", 6);
said.expected = normalize("BN", activations(30, shape), shape).xHat[0].toFixed(4).replace("-", "−");
said.collapsed = document.getElementById("said").textContent;
said.measured = cell("BN", 10); said.refused = cell("IN", 3);
const first = cell("BN", 5), canvas = document.querySelector("canvas");
canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
said.moved = first !== cell("BN", 5);
const rect = canvas.getBoundingClientRect();
const last = activations(30, shape)[15], down = 7.5 * (rect.height - 30) / 8 + 8;
const place = { clientX: rect.left + rect.width / 2 + last * rect.width / 8.4, clientY: rect.top + down };
canvas.dispatchEvent(new MouseEvent("click", place));
said.clicked = document.querySelector("#numbers caption").textContent;
controls.elements.batch.value = 4; input(controls.elements.batch);
said.count = cell("BN", 2);
controls.querySelector("[value=eval]").click();
said.evaluated = document.getElementById("said").textContent;
const dots = document.querySelectorAll("#drift circle").length;
document.getElementById("next").click();
said.next = document.querySelectorAll("#drift circle").length - dots;
for (const id of ["batch_norm", "group_norm"]) document.querySelector(`#${id} .pick input`).click();
const dialog = document.getElementById("compare");
said.open = dialog.open;
said.differs = [...dialog.querySelectorAll(".differs > th")].map(node => node.textContent);
said.rows = [...dialog.querySelectorAll("tbody tr > th[scope=row]")].map(node => node.textContent);
dialog.close();
URL.createObjectURL = blob => { said.saved = blob.type; return "blob:none"; };
HTMLAnchorElement.prototype.click = function () { said.file = this.download; };
document.querySelector("#group_norm .save").click();
said.wide = document.documentElement.scrollWidth - innerWidth;
document.title = JSON.stringify(said);
"""


@pytest.fixture(scope="module")
def acted(page, tmp_path_factory):
    """What the page said, and the log of the browser, after a script used its controls."""
    if not CHROMIUM:
        pytest.skip("needs Chromium to open the page")
    folder = tmp_path_factory.mktemp("atlas")
    aliases = [(alias, norm.name) for norm in NORMS for alias in (norm.name, *norm.aliases)]
    script = ACT.replace("ALIASES", json.dumps(aliases))
    (folder / "atlas.html").write_text(page.replace("</body>", f"<script>{{{script}}}</script></body>"), "utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/user", "--window-size=500,900", "--dump-dom"]
    done = subprocess.run([*command, f"file://{folder}/atlas.html"], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
    assert title.startswith("{"), done.stderr
    return json.loads(html.unescape(title)), done.stderr


def test_the_page_opens_in_chromium_without_an_error_and_fits_a_phone(acted):
    said, log = acted
    assert "CONSOLE" not in log
    assert said["wide"] <= 0


def test_any_alias_finds_its_norm_and_filters_ask_for_a_fact(acted):
    said, _ = acted
    assert said["aliases"] == []
    assert said["torch"][0].startswith("batch_norm")
    assert said["batchDependent"] == normzoo.list_norms(batch_dependent=True)


def test_two_norms_stand_side_by_side_with_their_differences_marked(acted):
    said, _ = acted
    assert said["open"]
    facts = ["averages over", "batch-dependent", "train and eval differ", "state", "picture", "equation"]
    assert set(facts) <= set(said["differs"]) < set(said["rows"])
    assert "kind" not in said["differs"]


def test_the_experiment_acts_and_shows_its_numbers(acted):
    said, _ = acted
    assert said["xHat"] == said["expected"]
    assert "averages 2 values here, so that each x̂ is ±1" in said["collapsed"]
    (row,) = (row for row in SCORES["rows"] if (row["norm"], row["batch"]) == ("batch_norm", 2))
    assert said["measured"].replace("\xa0", " ").startswith(f"{row['error']:.1f} ± {row['std']:.1f} % (n = 2 ")
    assert said["refused"] == "refused"
    assert said["moved"]
    assert "sample 1, channel 7" in said["clicked"]
    assert said["count"] == "32"
    assert said["evaluated"].startswith("In evaluation BN takes the running mean and variance after 30 batches")
    assert said["next"] == 1


def test_a_picture_is_saved_as_svg(acted):
    said, _ = acted
    assert (said["saved"], said["file"]) == ("image/svg+xml", "group_norm.svg")
