"use strict";
// Without this the page says the same; with it findings can be filtered and folded.
(() => {
  const bar = document.getElementById("filters");
  const findings = [...document.querySelectorAll(".finding")];
  const count = document.getElementById("shown");
  if (bar && findings.length > 0) {
    bar.hidden = false;
    const apply = () => {
      const words = bar.querySelector("input[type=search]").value.toLowerCase();
      const decisions = new Set([...bar.querySelectorAll("input:checked")].map((box) => box.value));
      let shown = 0;
      for (const finding of findings) {
        const fits = decisions.has(finding.dataset.decision) && finding.textContent.toLowerCase().includes(words);
        finding.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      count.textContent = shown + " of " + findings.length + " shown";
    };
    bar.addEventListener("input", apply);
    apply();
  }
  for (const button of document.querySelectorAll("button[data-fold]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const open = button.dataset.fold === "open";
      for (const details of document.querySelectorAll("#" + button.dataset.of + " details")) details.open = open;
    });
  }
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (!target || !target.classList.contains("finding")) return;
    target.hidden = false;
    target.firstElementChild.open = true;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  reveal();
})();
