// Filters the table of the model zoo. Without this script the table is whole, and its form stays hidden.
function fits(row, form) {
  const { family, dataset, figures, gmac, published } = row.dataset;
  const wanted = form.elements.figures.value;
  const most = parseFloat(form.elements.gmac.value);
  return (
    (!form.elements.family.value || family === form.elements.family.value) &&
    (!form.elements.dataset.value || dataset === form.elements.dataset.value) &&
    (wanted === "all" ||
      (wanted === "any" && figures !== "none") ||
      (wanted === "measured" && figures === "measured") ||
      (wanted === "published" && published === "yes")) &&
    (Number.isNaN(most) || (gmac !== "" && parseFloat(gmac) <= most)) &&
    row.cells[0].textContent.toLowerCase().includes(form.elements.text.value.trim().toLowerCase())
  );
}

function filterZoo(form, table) {
  const rows = Array.from(table.tBodies[0].rows);
  rows.forEach((row) => { row.hidden = !fits(row, form); });
  form.elements.count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector(".zoo-form");
  const table = document.querySelector("table.zoo");
  if (!form || !table) return;
  form.hidden = false;
  form.addEventListener("input", () => filterZoo(form, table));
  form.addEventListener("submit", (event) => event.preventDefault());
  filterZoo(form, table);
});
