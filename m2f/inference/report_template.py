"""The page of `html_report`: its template, styles and script."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2a7; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1200px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
.quiet { opacity: .7; font-size: .87rem; }
.numbers { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1rem 0; }
.numbers b { display: block; font-size: 1.6rem; line-height: 1.2; }
.failed { border-left: 4px solid #c33; padding: .3rem .9rem; background: #c331; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: .8rem; }
figure { margin: 0; } figcaption { font-size: .8rem; overflow-wrap: anywhere; }
.picture { position: relative; display: block; background: var(--soft); border-radius: 4px; overflow: hidden; }
.picture img { display: block; width: 100%; height: 180px; object-fit: contain; }
.picture img + img { position: absolute; inset: 0; opacity: 0; transition: opacity .12s; }
.picture:hover img + img, .picture:focus img + img, #all:checked ~ .grid img + img { opacity: 1; }
.scroll { overflow-x: auto; max-height: 32rem; overflow-y: auto; border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); }
th { position: sticky; top: 0; background: Canvas; }
th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap; }
th button:focus-visible { outline: 2px solid var(--accent); }
th button::after { content: "\\2195"; opacity: .35; padding-left: .3em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
rect { fill: var(--accent); } svg text { fill: currentColor; font-size: 11px; text-anchor: middle; }
svg { overflow: visible; } .chart { overflow-x: auto; padding: 1.2rem 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .87rem; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
"""

# Sorts a table by the column whose head is clicked; numbers by the cells' data-value.
SCRIPT = """
"use strict";
const collator = new Intl.Collator(undefined, { numeric: true });
function compare(a, b) {
  if (a.dataset.value === undefined || b.dataset.value === undefined) {
    return collator.compare(a.textContent, b.textContent);
  }
  return Number(a.dataset.value) - Number(b.dataset.value);
}
for (const head of document.querySelectorAll("th")) {
  head.querySelector("button").addEventListener("click", () => {
    const descending = head.ariaSort === "ascending" || (!head.ariaSort && head.classList.contains("n"));
    const sign = descending ? -1 : 1;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const rows = Array.from(body.rows);
    rows.sort((a, b) => sign * compare(a.cells[head.cellIndex], b.cells[head.cellIndex]));
    body.append(...rows);
  });
}
"""

TEMPLATE = """<!DOCTYPE html>
{% macro head(name, is_number=false) %}
<th scope="col"{% if is_number %} class="n"{% endif %}><button type="button">{{ name }}</button></th>
{%- endmacro %}
{% macro cell(value, digits=0) %}
<td class="n" data-value="{{ -1 if value is none else value }}">{{ value|number(digits) }}</td>
{%- endmacro %}
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{{ script_hash }}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>m2f predict: {{ summary.images|length }} images</title>
<style>{{ style }}</style>
</head>
<body>
<h1>m2f predict</h1>
<div class="numbers">
<div><b>{{ summary.images|length|number }}</b>images</div>
<div><b>{{ summary.object_count|number }}</b>segments</div>
<div><b>{{ summary.classes|length }}</b>classes found</div>
{% if summary.failed %}<div><b>{{ summary.failed|length }}</b>images without a result</div>{% endif %}
</div>
{% if summary.failed %}
<div class="failed"><b>Without a result</b>
<ul>{% for location, message in summary.failed %}<li>{{ location }}: {{ message }}</li>{% endfor %}</ul></div>
{% endif %}
{% if summary.images %}
<h2 id="pictures">Pictures</h2>
<input type="checkbox" id="all"> <label for="all">show all segments</label>
<span class="quiet">(or point at a picture; a click opens the overlay at full size)</span>
<div class="grid">
{% for row in summary.images if row.thumbnail %}
<figure><a class="picture" href="overlays/{{ row.files|path }}.png">
<img alt="" src="data:image/jpeg;base64,{{ row.thumbnail }}">
<img alt="segments" src="data:image/jpeg;base64,{{ row.overlay }}"></a>
<figcaption>{{ row.name }}<br><span class="quiet">segments: {{ row.objects }}</span></figcaption></figure>
{% endfor %}
</div>
{% set hidden = summary.images|rejectattr("thumbnail")|list|length %}
{% if hidden %}<p class="quiet">{{ hidden }} more images have their overlays in the folder overlays.</p>{% endif %}
{% endif %}
{% if summary.classes %}
<h2>Sizes</h2>
<div class="chart"><svg width="{{ chart.width }}" height="{{ chart.height + 18 }}" role="img"
 aria-label="number of segments by area">
{% for bar in bars %}
<g><title>{{ bar.title }}</title>
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"></rect>
{% if bar.count %}<text x="{{ bar.x + bar.width / 2 }}" y="{{ bar.y - 4 }}">{{ bar.count }}</text>{% endif %}
<text x="{{ bar.x + bar.width / 2 }}" y="{{ chart.height + 14 }}">{{ bar.label }}</text></g>
{% endfor %}
</svg></div>
<p class="quiet">Segments by area in pixels: each bar from the number below it to twice that; k is 1024.</p>
<h2>Classes</h2>
<div class="scroll"><table><thead><tr>
{{ head("class") }}{{ head("segments", true) }}{{ head("images", true) }}{{ head("median area", true) }}
{{ head("mean area", true) }}{{ head("mean score", true) }}{{ head("sizes") }}
</tr></thead><tbody>
{% for row in summary.classes %}
<tr><td>{{ row.label }}</td>{{ cell(row.objects) }}{{ cell(row.images) }}{{ cell(row.median_area) }}
{{ cell(row.mean_area) }}{{ cell(row.mean_score, 3) }}
<td data-value="{{ row.median_area }}"><svg width="{{ small_chart.width }}" height="{{ small_chart.height }}">
{% for bar in small_bars[loop.index0] %}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"></rect>
{% endfor %}
</svg></td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if summary.images %}
<h2>Images</h2>
<div class="scroll"><table id="images"><thead><tr>
{{ head("image") }}{{ head("width", true) }}{{ head("height", true) }}{{ head("segments", true) }}
{{ head("covered %", true) }}{{ head("mean score", true) }}{{ head("classes") }}
</tr></thead><tbody>
{% for row in summary.images %}
<tr><td><a href="overlays/{{ row.files|path }}.png">{{ row.name }}</a></td>
{{ cell(row.size[1]) }}{{ cell(row.size[0]) }}{{ cell(row.objects) }}{{ cell(100 * row.covered, 1) }}
{{ cell(row.mean_score, 3) }}<td>{{ row.classes }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if summary.objects %}
<h2>Segments</h2>
{% if summary.objects|length < summary.object_count %}
<p class="quiet">The {{ summary.objects|length }} best scores; objects.csv has all.</p>
{% endif %}
<div class="scroll"><table id="objects"><thead><tr>
{{ head("image") }}{{ head("id", true) }}{{ head("class") }}{{ head("score", true) }}{{ head("area", true) }}
{{ head("left", true) }}{{ head("top", true) }}{{ head("width", true) }}{{ head("height", true) }}
</tr></thead><tbody>
{% for name, segment in summary.objects %}
<tr><td>{{ name }}</td>{{ cell(segment.id) }}<td>{{ segment.label }}</td>{{ cell(segment.score, 3) }}
{{ cell(segment.area) }}{% for edge in segment.bbox %}{{ cell(edge) }}{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<h2>Settings</h2>
<dl>{% for name, value in settings.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<script>{{ script }}</script>
</body>
</html>
"""
