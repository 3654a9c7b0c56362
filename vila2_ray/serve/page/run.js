// Asking: requests sent side by side, their events handed to the answers they belong to.

import { ask, problemOf, Problem } from "./api.js";
import { Answer } from "./answer.js";
import { make } from "./dom.js";
import { fields, form, grouped } from "./request.js";
import { Sheet } from "./sheet.js";
import { events } from "./sse.js";

export class Run {
  /** `wish` is {prompt, question, sampling, said}; `again(answer)` asks one answer anew; `refused()` hears of a 401. */
  constructor(pictures, models, wish, limits, { again, refused }) {
    this.limits = limits;
    this.refused = refused;
    this.sheets = pictures.map((picture) => new Sheet(picture, models.length));
    this.answers = models.map((model) => this.sheets.map((sheet) => new Answer(sheet, model, fields(model, wish), again)));
    const title = make("h2", { dir: "auto" }, wish.said);
    this.element = make("section", { class: "run" }, title, ...this.sheets.map(({ element }) => element));
  }

  /** Asks everything. Never raises: what goes wrong stands in the answers. */
  async go(signal) {
    const requests = this.answers.flatMap((ofModel) => {
      const pictures = ofModel.map((answer) => ({ file: answer.sheet.file, answer }));
      return grouped(pictures, this.limits).map((group) => group.map(({ answer }) => answer));
    });
    await Promise.all(requests.map((answers) => this.listen(answers, signal)));
  }

  /** One request; the answers are those to its images, in order, all by one model. */
  async listen(answers, signal) {
    try {
      const response = await ask(form(answers.map(({ sheet }) => sheet.file), answers[0].set), signal);
      for await (const { event, data } of events(response.body)) {
        if (event === "done") break;
        tell(answers, event, JSON.parse(data));
      }
      if (answers.some(({ isOpen }) => isOpen)) throw new Error("the stream ended early");
    } catch (error) {
      const open = answers.filter(({ isOpen }) => isOpen);
      if (signal.aborted) return open.forEach((answer) => answer.stop());
      const problem = problemOf(error);
      if (problem.status === 401) this.refused();
      for (const answer of open) answer.fail(problem);
    }
  }

  close() {
    for (const sheet of this.sheets) sheet.close();
    this.element.remove();
  }
}

function tell(answers, event, said) {
  const answer = answers[said.index];
  if (event === "piece") answer?.piece(said.text);
  else if (event === "caption") answer?.whole(said);
  else if (event === "error") {
    const problem = new Problem(said);
    const meant = answer ? [answer] : answers.filter(({ isOpen }) => isOpen);
    for (const failed of meant) failed.fail(problem);
  }
}
