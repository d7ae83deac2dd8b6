"use strict";
(async () => {
  const boxes = [...document.querySelectorAll("[data-figure]")];
  const say = (box, text) => { box.querySelector(".waiting").textContent = text; };

  // plotly.js travels packed: 1.5 MB rather than 4.8, and no request leaves this page.
  const unpack = async () => {
    const packed = atob(document.getElementById("plotly-js").textContent.trim());
    const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("the browser refused the unpacked plotly.js");
  };

  // Figures carry the colours of their series only; the rest follows the page's light or dark.
  const template = () => {
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, grid, line, card] = ["--ink", "--soft", "--grid", "--line", "--card"].map(
      (name) => style.getPropertyValue(name).trim());
    const axis = { gridcolor: grid, linecolor: line, zerolinecolor: line, tickcolor: line,
      zerolinewidth: 1, automargin: true, tickfont: { color: soft, size: 11 },
      title: { font: { color: soft, size: 12 }, standoff: 8 }, ticks: "", showline: true };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily },
        hoverlabel: { align: "left", bgcolor: card, bordercolor: line, namelength: -1,
          font: { color: ink, size: 12 } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
        xaxis: axis, yaxis: axis,
      },
      data: { bar: [{ error_x: { color: ink } }] },
    };
  };

  const draw = (box) => {
    const figure = JSON.parse(document.getElementById(box.dataset.figure).textContent);
    const legend = box.parentElement.parentElement.querySelector(".legend");
    const layout = { ...figure.layout, autosize: true, template: template() };
    if (legend) layout.showlegend = false;
    const off = [...(legend ? legend.querySelectorAll('[aria-pressed="false"]') : [])];
    const hidden = new Set(off.flatMap((button) => JSON.parse(button.dataset.traces)));
    const data = figure.data.map((trace, position) => (
      hidden.has(position) ? { ...trace, visible: false } : trace));
    box.querySelector(".waiting")?.remove();
    return Plotly.react(box, data, layout, {
      responsive: true, displaylogo: false, typesetMath: false,
      modeBarButtons: [["toImage"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
      // plotly.js would offer to send the figure and its data to its makers.
      showSendToCloud: false, plotlyServerURL: "",
    });
  };

  const drawOrSay = async (box) => {
    try {
      await draw(box);
    } catch (error) {
      box.replaceChildren(Object.assign(document.createElement("p"), { className: "waiting",
        textContent: `This figure could not be drawn: ${error.message}` }));
    }
  };

  try {
    if (!boxes.length) return;
    await unpack();
  } catch (error) {
    for (const box of boxes) say(box, `Figures need a current browser (${error.message}); the tables hold every number.`);
    return;
  }
  for (const box of boxes) await drawOrSay(box);
  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      button.ariaPressed = String(button.ariaPressed !== "true");
      drawOrSay(button.closest("figure").querySelector("[data-figure]"));
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => {
    for (const box of boxes) await drawOrSay(box);
  });
  document.documentElement.dataset.figures = "drawn";
})();
