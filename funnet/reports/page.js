// Tells the values under the pointer. The page is whole without it.
(function () {
  "use strict";
  var told = document.createElement("div");
  told.id = "told";
  document.body.appendChild(told);

  function show(event, text) {
    told.textContent = text;
    told.style.display = "block";
    var box = told.getBoundingClientRect();
    var left = event.clientX + 14;
    if (left + box.width > innerWidth - 4) left = event.clientX - box.width - 14;
    told.style.left = Math.max(4, left) + "px";
    told.style.top = Math.max(4, event.clientY - box.height - 10) + "px";
  }

  function place(svg, event) {
    var box = svg.getBoundingClientRect();
    var view = svg.viewBox.baseVal;
    return [
      ((event.clientX - box.left) / box.width) * view.width,
      ((event.clientY - box.top) / box.height) * view.height,
    ];
  }

  function nearest(steps, x) {
    var low = 0, high = steps.length - 1;
    while (low < high) {
      var middle = (low + high) >> 1;
      if (steps[middle] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - steps[low - 1] < steps[low] - x ? low - 1 : low;
  }

  function written(value, share) {
    if (share) return (100 * value).toFixed(2) + " %";
    return String(Number(value.toPrecision(4)));
  }

  document.querySelectorAll("svg[data-chart]").forEach(function (svg) {
    var chart = JSON.parse(svg.getAttribute("data-chart")), x = chart.x;
    var cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
    cross.setAttribute("class", "cross");
    svg.addEventListener("pointermove", function (event) {
      var at = place(svg, event)[0];
      var step = x[0] + ((at - x[2]) / (x[3] - x[2])) * (x[1] - x[0]);
      var best = null;
      var lines = chart.series.filter(function (s) { return s.steps.length; }).map(function (s) {
        var i = nearest(s.steps, step);
        if (best === null || Math.abs(s.steps[i] - step) < Math.abs(best - step)) best = s.steps[i];
        return [s.steps[i], s.name + "  " + written(s.values[i], chart.share)];
      });
      if (best === null) return;
      var text = ["step " + best.toLocaleString("en")].concat(lines.map(function (line) {
        return line[1] + (line[0] === best ? "" : "  (step " + line[0].toLocaleString("en") + ")");
      }));
      var there = x[2] + ((best - x[0]) / (x[1] - x[0])) * (x[3] - x[2]);
      var axis = svg.querySelector(".axis");
      cross.setAttribute("x1", there); cross.setAttribute("x2", there);
      cross.setAttribute("y1", 10); cross.setAttribute("y2", axis.getAttribute("y1"));
      svg.appendChild(cross);
      show(event, text.join("\n"));
    });
    svg.addEventListener("pointerleave", function () {
      cross.remove();
      told.style.display = "none";
    });
  });

  document.querySelectorAll("svg[data-heat]").forEach(function (svg) {
    var heat = JSON.parse(svg.getAttribute("data-heat")), at = heat.at;
    svg.addEventListener("pointermove", function (event) {
      var p = place(svg, event);
      var c = Math.floor((p[0] - at[0]) / at[2]), r = Math.floor((p[1] - at[1]) / at[2]);
      var names = heat.names;
      if (r < 0 || c < 0 || r >= names.length || c >= names.length) {
        told.style.display = "none";
        return;
      }
      var count = heat.cells[r + "," + c] || 0;
      show(event, count.toLocaleString("en") + " × " + names[r] + ", predicted " + names[c]);
    });
    svg.addEventListener("pointerleave", function () { told.style.display = "none"; });
  });
})();
