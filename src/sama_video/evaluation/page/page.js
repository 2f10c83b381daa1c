"use strict";

// A column's button sorts its table: numbers from the largest on at first, names from A on; empty cells stay last.
function sortBy(header) {
  const table = header.closest("table");
  const index = header.cellIndex;
  const body = table.tBodies[0];
  const keys = new Map([...body.rows].map((row) => [row, row.cells[index].dataset.sort]));
  const filled = [...keys.values()].filter((key) => key !== "");
  const numeric = filled.every((key) => !Number.isNaN(Number(key)));
  const first = numeric ? "descending" : "ascending";
  const second = numeric ? "ascending" : "descending";
  const order = header.ariaSort === first ? second : first;
  const sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b));
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [keys.get(a), keys.get(b)];
    return x === "" || y === "" ? (x === "") - (y === "") : sign * compare(x, y);
  });
  for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
  header.ariaSort = order;
  body.append(...rows);
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// One button plays source, edit and target from their beginning at the same time, or stops them.
for (const button of document.querySelectorAll("button.play")) {
  const videos = [...button.closest("article").querySelectorAll("video")];
  button.addEventListener("click", () => {
    const playing = videos.some((video) => !video.paused);
    for (const video of videos) {
      if (playing) {
        video.pause();
      } else {
        video.currentTime = 0;
        video.play();
      }
    }
    button.textContent = playing ? "Play together" : "Pause";
  });
}
