// Makes a report's tables sort and filter, and its charts answer; without it the page shows the same, still.
"use strict";

/** A cell's number, NaN where it has none. */
function number(cell) {
  const text = cell.dataset.value ?? cell.textContent.replace("−", "-").replace(/(\d),(?=\d{3})/g, "$1");
  return text === "" ? NaN : parseFloat(text);
}

/** Compares two cells: numbers by value, texts by letters; what is missing comes last either way. */
function compare(one, other, sign) {
  const [a, b] = [number(one), number(other)];
  if (!isNaN(a) && !isNaN(b)) return sign * (a - b);
  if (isNaN(a) !== isNaN(b)) return isNaN(a) ? 1 : -1;
  return sign * one.textContent.localeCompare(other.textContent, undefined, { numeric: true });
}

function sortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const first = [...table.tBodies[0].rows].some((row) => !isNaN(number(row.cells[column])));
      // Numbers start with the largest, texts with the first.
      const now = heading.getAttribute("aria-sort");
      const next = now === null ? (first ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
      headings.forEach((one) => one.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(one.cells[column], other.cells[column], sign));
      table.tBodies[0].append(...rows);
    });
  });
}

function filterable(table, index) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 5) return;
  const bar = document.createElement("div");
  bar.className = "filter";
  const id = `filter-${index}`;
  bar.innerHTML = `<label for="${id}">Filter rows</label><input id="${id}" type="search"><output for="${id}"></output>`;
  table.closest(".scroll").before(bar);
  const [input, output] = [bar.querySelector("input"), bar.querySelector("output")];
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      count += !row.hidden;
    }
    output.textContent = words.length ? `${count} of ${rows.length} rows` : "";
  });
}

/** Lets the Tab key reach the points of a chart, and shows for the one in focus what the pointer would show. */
function reachable(chart) {
  for (const mark of chart.querySelectorAll('.role-mark [role="graphics-symbol"][aria-label]')) {
    mark.setAttribute("tabindex", "0");
    mark.setAttribute("role", "img");
  }
}

function pointed(event) {
  const mark = event.target;
  if (!mark.matches?.('.chart [tabindex="0"]')) return;
  const box = mark.getBoundingClientRect();
  const at = { bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  const kinds = event.type === "focusin" ? ["pointerover", "pointermove"] : ["pointerout"];
  for (const kind of kinds) mark.dispatchEvent(new PointerEvent(kind, at));
}

const views = new WeakMap(); // figure -> what vegaEmbed made of it

async function draw(figure) {
  if (views.has(figure) || typeof vegaEmbed === "undefined") return;
  views.set(figure, null);
  const chart = figure.querySelector(".chart");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const options = {
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: figure.dataset.name,
  };
  try {
    const still = chart.innerHTML;
    chart.textContent = "";
    const { view } = await vegaEmbed(chart, spec, options).catch((error) => {
      chart.innerHTML = still; // the same picture, still
      throw error;
    });
    views.set(figure, view);
    const mark = () => reachable(chart);
    new MutationObserver(mark).observe(chart, { childList: true, subtree: true });
    mark();
    choose(figure);
  } catch (error) {
    console.error(`The chart ${figure.dataset.name} cannot be drawn:`, error);
  }
}

/** Shows the arms of a chart that are checked. */
function choose(figure) {
  const view = views.get(figure);
  const boxes = [...figure.querySelectorAll("fieldset.arms input")];
  if (!view || !boxes.length) return;
  view.signal("shown", boxes.filter((box) => box.checked).map((box) => box.value)).runAsync();
}

/** Of several figures, shows the one that is chosen. */
function alternatives(group) {
  const figures = [...group.querySelectorAll("figure")];
  const inputs = [...group.querySelectorAll(".tabs input, .choice option")];
  const show = () => {
    figures.forEach((figure, index) => {
      figure.hidden = !(inputs[index].checked || inputs[index].selected);
      if (!figure.hidden) draw(figure);
    });
    window.dispatchEvent(new Event("resize")); // a chart has no width while it is hidden
  };
  for (const control of group.querySelectorAll(".tabs, .choice")) {
    control.hidden = false;
    control.addEventListener("change", show);
  }
  show();
}

document.querySelectorAll("table").forEach((table, index) => {
  sortable(table);
  filterable(table, index);
});
document.querySelectorAll(".alternatives").forEach(alternatives);
document.querySelectorAll("figure[data-name]:not([hidden])").forEach(draw);
document.querySelectorAll("fieldset.arms").forEach((arms) => {
  arms.querySelectorAll("input").forEach((box) => (box.hidden = false));
  arms.addEventListener("change", () => choose(arms.closest("figure")));
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details.exploratory").forEach((one) => (one.open = true)); // paper has nothing to open
});
document.addEventListener("focusin", pointed);
document.addEventListener("focusout", pointed);
