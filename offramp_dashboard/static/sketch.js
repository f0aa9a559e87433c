// A canvas to draw on in white on black, like handwritten digits, and functions that the page calls in the browser.
(() => {
  const last = new Map(); // where each finger or pen was
  let drawn = false;
  const canvas = () => document.querySelector("canvas.sketch");
  const at = (event, target) => {
    const box = target.getBoundingClientRect();
    return [
      ((event.clientX - box.left) * target.width) / box.width,
      ((event.clientY - box.top) * target.height) / box.height,
    ];
  };
  const line = (target, [x0, y0], [x1, y1]) => {
    const pen = target.getContext("2d");
    pen.strokeStyle = "#fff";
    pen.lineWidth = target.width / 12;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
    drawn = true;
  };
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.matches?.("canvas.sketch")) return;
    event.target.setPointerCapture(event.pointerId);
    const point = at(event, event.target);
    last.set(event.pointerId, point);
    line(event.target, point, point);
  });
  document.addEventListener("pointermove", (event) => {
    if (!last.has(event.pointerId)) return;
    const point = at(event, event.target);
    line(event.target, last.get(event.pointerId), point);
    last.set(event.pointerId, point);
  });
  for (const end of ["pointerup", "pointercancel"])
    document.addEventListener(end, (event) => last.delete(event.pointerId));

  window.offrampSketch = {
    clear() {
      const target = canvas();
      target?.getContext("2d").clearRect(0, 0, target.width, target.height);
      drawn = false;
    },
    png() {
      const target = canvas();
      if (!target || !drawn) return "";
      const whole = document.createElement("canvas");
      whole.width = target.width;
      whole.height = target.height;
      const pen = whole.getContext("2d");
      pen.fillStyle = "#000";
      pen.fillRect(0, 0, whole.width, whole.height);
      pen.drawImage(target, 0, 0);
      return whole.toDataURL("image/png");
    },
  };

  const KEY = "offramp-scheme";
  const isDark = () => document.body.classList.contains("body--dark");
  window.offrampScheme = {
    // Tell the server whenever the colours change, through the switch or through the system.
    watch() {
      let told = isDark();
      new MutationObserver(() => {
        if (isDark() !== told) emitEvent("scheme", (told = isDark()));
      }).observe(document.body, { attributeFilter: ["class"] });
      return { dark: told, kept: localStorage.getItem(KEY) };
    },
    keep: (scheme) => localStorage.setItem(KEY, scheme),
  };
})();
