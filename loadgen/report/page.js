// Draws each chart when it comes into view, in the colours of the page, and again when the reader's screen changes them.
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];
  const config = { displayModeBar: false, responsive: true };

  const themed = (layout) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const lines = { gridcolor: colour("--grid"), linecolor: colour("--edge"), zerolinecolor: colour("--edge") };
    const made = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--edge"), font: { color: colour("--ink") } },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
      margin: { l: 52, r: 14, t: 30, b: 42 },
      ...layout,
    };
    for (const key of Object.keys(made)) {
      if (!/^[xy]axis\d*$/.test(key)) continue;
      const axis = { ...lines, tickfont: { color: colour("--soft"), size: 11 }, ...made[key] };
      if (axis.title) axis.title = { ...axis.title, font: { color: colour("--soft"), size: 11 } };
      if (axis.minor) axis.minor = { ...axis.minor, gridcolor: colour("--grid") };
      made[key] = axis;
    }
    for (const axis of ["xaxis", "yaxis"]) if (!made[axis]) made[axis] = lines;
    return made;
  };

  const draw = (place) => {
    const { data, layout } = charts[Number(place.dataset.chart)];
    Plotly.react(place, data, themed(layout), config);
    place.dataset.drawn = "yes";
  };
  const watcher = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) {
      if (isIntersecting) { watcher.unobserve(target); draw(target); }
    }
  }, { rootMargin: "600px" });
  places.forEach((place) => watcher.observe(place));
  const again = () => places.filter((place) => place.dataset.drawn).forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  addEventListener("beforeprint", () => places.forEach(draw));
})();
